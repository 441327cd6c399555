
/*
 * What the parts of a run share: nodes, requests, messages, and the queue.
 *
 * All times are true time; nodes see it through clocks of their own.  What a
 * node does here is what the nginx shell does around limit/lease.h.
 */


#ifndef RUN_H_INCLUDED
#define RUN_H_INCLUDED


#include "limit/owed.h"
#include "sim.h"


typedef struct node_s     node_t;
typedef struct request_s  request_t;
typedef struct message_s  message_t;


struct request_s {
    int              node, worker, n;
    uint64_t         life;               /* of its worker */
    int64_t          deadline, born, admitted;
    int              acct[ITEMS];
    unsigned         version[ITEMS];
    apikey_claim_t   claim[ITEMS];
    admission_t      adm[ITEMS];
    bool             paid[ITEMS];        /* by TAKE */
    bool             whole[ITEMS];       /* TAKE says what */
    bool             waiting[ITEMS];
    bool             done, waited, ok, first, busy, running, lapsed;
    bool             stopped;            /* before its confirm() */
    bool             again;              /* it gave leases back */
    unsigned         taken, tries;
    int64_t          th, tr;
    uint64_t         oh, or;
};


struct message_s {
    int              node, acct, worker, n;
    uint64_t         life, call;
    unsigned         version[ITEMS];
    int              accts[ITEMS];
    uint64_t         costs[ITEMS], eras[ITEMS];
    int64_t          sent, t0, back;     /* back: the answer's time; 0: lost */
    int64_t          redis;              /* when Redis got it */
    bool             good;
    request_t       *rq;
    apikey_account_ask_t    ask;
    apikey_account_sums_t   sums[ITEMS];
    roll_t           roll[ITEMS];
    apikey_account_grant_t  grant;
    uint64_t         names[ITEMS];
    size_t           settled[ITEMS];     /* of the node so far */
    uint64_t         rooms[ITEMS];       /* of quotas, afterwards */
    uint64_t         fulls[ITEMS];
};


typedef struct {
    apikey_lease_t       lease;
    apikey_tally_t       tally;
    apikey_lease_conf_t  conf[VERSIONS];
    unsigned             version;
    bool                 timer;
    bool                 yields;         /* a slot that was left goes back */
    int                  worker;         /* of the call in flight */
    int64_t              sent;
    int64_t              settled;        /* all there was to settle */
    int64_t              pending;        /* AB_DELTA */
    int64_t              told;           /* Redis got a LEASE of it */
    roll_t               roll;
    bool                 gave_up;        /* half a horizon without answer */
    request_t          **wait;
    size_t               nwait, swait;
} side_t;


struct node_s {
    int64_t              offset, rate;
    int64_t              stopped[WORKERS], down;
    uint64_t             life[WORKERS];
    int64_t              alone;              /* without Redis, until then */
    apikey_owed_set_t   *owed;
    side_t               side[ACCOUNTS];
};


typedef enum {
    E_ARRIVAL, E_LEASE, E_ANSWER, E_TIMEOUT, E_TAKE, E_TAKEN, E_TAKE_TIMEOUT,
    E_TIMER, E_END, E_FAULT, E_DECIDE, E_CONFIRM, E_EDIT, E_RELEASE,
    E_ALONE
} event_e;


typedef struct {
    int64_t          t;
    uint64_t         seq;
    event_e          kind;
    int              a, b;
    uint64_t         n;
    void            *p;
} event_t;


typedef struct {
    world_t          w;
    uint64_t         rng, seq, names;
    event_t         *heap;
    size_t           nheap, sheap;
    node_t           nodes[NODES];
    request_t       *requests;
    message_t      **messages;
    size_t           nmessages, smessages;
    apikey_bucket_t  ref[ACCOUNTS];
    bool             power, flushed;     /* was lost, there was */
    bool             differences;        /* instead of sums */
} run_t;


/* event.c */
void push_at(run_t *r, int64_t t, uint64_t seq, event_e kind, int a, int b,
    uint64_t n, void *p);
void push(run_t *r, int64_t t, event_e kind, int a, int b, uint64_t n,
    void *p);
message_t *message(run_t *r);
void refused(run_t *r, request_t *rq);

/* request.c */
void finish(request_t *rq, uint64_t *count);
void put_back(run_t *r, request_t *rq);
void leave(run_t *r, request_t *rq);
void decide(run_t *r, request_t *rq);
void confirm(run_t *r, request_t *rq);
void taken(run_t *r, request_t *rq, const message_t *m);
void on_arrival(run_t *r, event_t *e);
void on_end(run_t *r, event_t *e);

/* timer.c */
void left(run_t *r, request_t *rq, int i);
void give_slots(run_t *r, request_t *rq);
void give_back(run_t *r, request_t *rq);
void timer(run_t *r, int n, int a);
void on_timer(run_t *r, event_t *e);

/* call.c */
int64_t local(const node_t *nd, int64_t t);
void send_lease(run_t *r, int n, int a, int worker, bool back);
void send_take(run_t *r, request_t *rq);
void on_lease(run_t *r, message_t *m);
void wake(run_t *r, int n, int a);
void on_answer(run_t *r, event_t *e);
void on_timeout(run_t *r, event_t *e);
void on_take(run_t *r, message_t *m);
void on_taken(run_t *r, event_t *e);
void on_take_timeout(run_t *r, event_t *e);

/* alone.c */
bool alone_arrival(run_t *r, request_t *rq);
bool alone_look(run_t *r, int n, int a, apikey_account_sums_t *sums,
    bool send);
void alone_heard(run_t *r, const message_t *m);
void alone_acked(run_t *r, const message_t *m);
void alone_contact(run_t *r, int n, int64_t redis);
void on_alone(run_t *r, event_t *e);

/* rolling.c */
void roll_settle(run_t *r, const request_t *rq, int i, int64_t tokens);
void roll_send(run_t *r, int n, int a, roll_t *out);
void roll_lost(run_t *r, int n, int a, const roll_t *in);


/* fault.c */
void lapse(run_t *r, int n, int a);
void killed(run_t *r, int n, int worker, bool all, bool power);
void stop(run_t *r, int n, int worker, int64_t span);
void on_fault(run_t *r, const fault_t *f);
void on_edit(run_t *r, event_t *e);


#endif /* RUN_H_INCLUDED */

# make help says what there is.
#
# Everything is built below BUILD: the module against the sources of the nginx
# that will load it (NGINX says which, NGINX_SRC where its sources are), the
# tool, the unit tests.  A flavour is a BUILD of its own with its own SANITIZE.
# ATONCE tests run at the same time: they wait more than they compute.

NGINX     ?= nginx
NGINX_SRC ?= /usr/share/nginx/src
BUILD     ?= build
SANITIZE  ?=
OPTIMIZE  ?= -O2
LTO       ?= $(if $(SANITIZE),,$(shell $(CC) $(LTO_FLAGS) -shared -fPIC \
	-x c /dev/null -o /dev/null 2> /dev/null && echo $(LTO_FLAGS)))
JOBS      ?= $(shell nproc)
ATONCE    ?= $(shell expr $(JOBS) + 1)
FUZZ_CC   ?= clang
FUZZ_TIME ?= 60
TESTS     ?= t/*.t

# a call from one file to another is one within a file, one to nginx no detour
LTO_FLAGS = -flto=auto -fno-plt

MODULE = $(BUILD)/ngx_http_apikey_module.so
CTL    = $(BUILD)/apikeyctl

WARN   = -Wall -Wextra -Wno-unused-parameter -Werror
CFLAGS = -std=gnu11 -g $(OPTIMIZE) -Wall -Wextra -Werror -fPIC $(SANITIZE)
INCS   = -Isrc $(shell pkg-config --cflags libpq libcrypto 2> /dev/null)
PQ     = $(shell pkg-config --libs libpq 2> /dev/null || echo -lpq)
CTLLIB = $(PQ) -lcurl -lhiredis -ljansson -lssl -lcrypto -lm

# what compiles without nginx
PLAIN  = $(wildcard src/base/*.c src/limit/account*.c src/limit/bucket*.c \
	src/limit/gauge.c src/limit/level.c src/limit/rolling.c src/limit/lease.c \
	src/limit/lease_*.c src/limit/tallies*.c src/limit/owed.c \
	src/usage/extract*.c src/usage/pack*.c src/usage/unpack*.c \
	src/usage/record*.c src/usage/ring*.c src/usage/spool*.c)
PLAINO = $(PLAIN:%.c=$(BUILD)/plain/%.o)
CTLO   = $(patsubst %.c,$(BUILD)/plain/%.o,$(wildcard cli/*.c))
UNITS  = $(patsubst t/unit/%.c,$(BUILD)/unit/%,$(wildcard t/unit/*.c))
SIMO   = $(patsubst %.c,$(BUILD)/plain/%.o,$(wildcard t/sim/*.c))
FUZZES = $(patsubst t/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard t/fuzz/*.c))

# what runs no C of ours has nothing to sanitize
NO_C   = t/sql%.t t/plans.t t/views.t t/usage_report.t t/structure.t t/config.t

ASAN   = BUILD=$(BUILD)/asan OPTIMIZE=-O1 SANITIZE="-fsanitize=address \
	-fsanitize=undefined -fno-omit-frame-pointer -U_FORTIFY_SOURCE"


.PHONY: all build product module run break mend deps test suite unit asan \
	bench soak fuzz clean help FORCE

all: build


help:
	@echo 'make build   the module, apikeyctl and the unit tests in $(BUILD)/'
	@echo 'make run     the whole thing to try: Postgres, Redis, a demo API,'
	@echo '             nginx, a key and curl lines; Ctrl-C ends it'
	@echo 'make break   (another shell) stops both stores of make run'
	@echo 'make mend    starts them again'
	@echo 'make deps    installs what build, run and test need (Debian)'
	@echo 'make test    everything: the suite, and once more under ASan and UBSan'
	@echo 'make unit    the plain core alone'
	@echo 'make suite   t/*.t, or TESTS="t/a.t t/b.t"'
	@echo 'make asan    the suite under ASan and UBSan'
	@echo 'make soak    the tests with random faults, for long'
	@echo 'make fuzz    each fuzzer for FUZZ_TIME=$(FUZZ_TIME) seconds'
	@echo 'make bench   next to bare nginx'
	@echo 'make clean   removes $(BUILD)/; .run/ keeps the data of make run'
	@echo
	@echo 'NGINX=$(NGINX) NGINX_SRC=$(NGINX_SRC): build for an nginx of yours'


build: product $(UNITS) $(BUILD)/sim

product: module $(CTL)

# nginx's own Makefile knows which files have changed; the module is replaced,
# not overwritten: an nginx may have it mapped
module: $(BUILD)/nginx/objs/Makefile FORCE
	@cd $(BUILD)/nginx && unset MAKEFLAGS MFLAGS \
		&& $(MAKE) -s -j$(JOBS) -f objs/Makefile modules
	@cmp -s $(BUILD)/nginx/objs/ngx_http_apikey_module.so $(MODULE) \
		|| { cp $(BUILD)/nginx/objs/ngx_http_apikey_module.so $(MODULE).new \
		     && mv $(MODULE).new $(MODULE) && echo "built $(MODULE)"; }

$(BUILD)/nginx/objs/Makefile: config tools/configure \
		$(NGINX_SRC)/src/core/nginx.h
	@echo "configuring $(BUILD)/nginx"
	@NGINX="$(NGINX)" CC="$(CC)" LD_OPT="$(LTO) $(SANITIZE)" \
		CC_OPT="$(OPTIMIZE) $(LTO) $(WARN) $(SANITIZE)" \
		tools/configure "$(NGINX_SRC)" $(BUILD)/nginx

$(NGINX_SRC)/src/core/nginx.h:
	@echo 'no nginx sources in $(NGINX_SRC): make deps,' \
		'or NGINX_SRC=directory' >&2; exit 1

$(BUILD)/plain/%.o: %.c
	@mkdir -p $(@D) && echo "cc $<"
	@$(CC) $(CFLAGS) $(INCS) -MMD -c -o $@ $<

# parts of the module that ask nothing of nginx but its types
$(patsubst %,$(BUILD)/plain/t/unit/%.o,copy holds wheel): $(BUILD)/plain/%.o: \
		%.c $(BUILD)/nginx/objs/Makefile
	@mkdir -p $(@D) && echo "cc $<"
	@$(CC) $(CFLAGS) -Wno-unused-parameter $(INCS) \
		$(patsubst %,-I$(BUILD)/nginx/%,objs src/core src/event src/os/unix) \
		-MMD -c -o $@ $<

$(BUILD)/plain.a: $(PLAINO)
	@rm -f $@ && ar rcs $@ $^

$(CTL): $(CTLO) $(BUILD)/plain.a
	@echo "built $@"
	@$(CC) $(CFLAGS) -o $@ $^ $(CTLLIB)

$(BUILD)/unit/%: $(BUILD)/plain/t/unit/%.o $(BUILD)/plain.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) -o $@ $^ -lcrypto

$(BUILD)/sim: $(SIMO) $(BUILD)/plain.a
	@$(CC) $(CFLAGS) -o $@ $^ -lm

.PRECIOUS: $(BUILD)/plain/%.o

$(BUILD)/fuzz/%: t/fuzz/%.c $(PLAIN) FORCE
	@mkdir -p $(@D)
	$(FUZZ_CC) -g -O1 -fsanitize=fuzzer,address,undefined $(INCS) -o $@ \
		$< $(PLAIN) -lcrypto

-include $(shell find $(BUILD)/plain -name '*.d' 2> /dev/null)


deps:
	@tools/deps build run test

run:
	@exec tools/run

break:
	@tools/run break

mend:
	@tools/run mend


test:
	@tools/deps build test
	@$(MAKE) --no-print-directory suite
	@$(MAKE) --no-print-directory asan

unit: build
	@APIKEY_BUILD=$(BUILD) prove -It/lib t/unit.t t/sim.t

suite: build
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" \
		prove --timer -j$(ATONCE) -It/lib $(TESTS)

asan:
	@$(MAKE) --no-print-directory $(ASAN) build
	@APIKEY_ASAN=1 $(MAKE) --no-print-directory $(ASAN) suite \
		TESTS="$(or $(filter-out $(NO_C),$(wildcard $(TESTS))),$(TESTS))"

soak: build
	@APIKEY_SOAK=1 APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" \
		prove -v -It/lib $$(grep -l 'rounds(' t/*.t)

fuzz:
	@tools/deps build fuzz
	@$(MAKE) --no-print-directory $(FUZZES)
	@for fuzz in $(FUZZES); do \
		name=$$(basename $$fuzz); mkdir -p $$fuzz.corpus; \
		$$fuzz -max_total_time=$(FUZZ_TIME) -print_final_stats=1 \
			-artifact_prefix=$$fuzz. $$fuzz.corpus \
			$$(ls -d t/fuzz/$$name.seeds 2> /dev/null) || exit 1; \
	done

bench:
	@tools/deps build test bench
	@$(MAKE) --no-print-directory build
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/run
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/keys
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/ship
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/hot
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/export
	@APIKEY_BUILD=$(BUILD) APIKEY_NGINX="$(NGINX)" bench/tokens

clean:
	rm -rf $(BUILD)

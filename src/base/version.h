
/*
 * The version of the module and of its tool.
 */


#ifndef APIKEY_VERSION_H_INCLUDED
#define APIKEY_VERSION_H_INCLUDED


#define APIKEY_VERSION  "0.1.0"


#endif /* APIKEY_VERSION_H_INCLUDED */

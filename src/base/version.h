
/*
 * The version of the module and of its tool, and of the schema they need.
 */


#ifndef APIKEY_VERSION_H_INCLUDED
#define APIKEY_VERSION_H_INCLUDED


#define APIKEY_VERSION  "0.1.0"
#define APIKEY_SCHEMA   112          /* as schema/9999_version.sql says */

/* The advisory lock that "apikeyctl schema apply" holds: "apikey" in ASCII. */
#define APIKEY_SCHEMA_LOCK    "107135432877433"


#endif /* APIKEY_VERSION_H_INCLUDED */

/* What json-c does not check: the same key twice in one object. It would keep the last and say nothing, and the reader
 * of a policy would be looking at the first. Private to policy-parse.c. */
#ifndef VB_BROKER_POLICY_JSON_H
#define VB_BROKER_POLICY_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* `text` is JSON that a parser has accepted. True when no object has a key twice. Else ret_path says where
 * ("grants[2].uid") and *ret_why what is wrong. Keys with escapes, single quotes and more nesting than a policy can have count as
 * wrong too. */
bool vb_json_keys_unique(const char *text, size_t size, char *ret_path, size_t path_size, const char **ret_why);

#endif

/* What filter.c (reading the list) and filter_run.c (searching) share.
 * Thread: as filter.h. */
#ifndef ENGINE_TEXT_FILTER_INT_H
#define ENGINE_TEXT_FILTER_INT_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/text/filter.h"

struct filter_pattern {
    pcre2_code *code;
    int category;
};

struct filter {
    int n_categories, n_patterns;
    struct {
        char name[FILTER_NAME_MAX];
        bool flag; /* never blocks */
    } categories[FILTER_CATEGORIES_MAX];
    struct filter_pattern patterns[FILTER_PATTERNS_MAX];
    pcre2_match_context *context; /* limits */
};
#endif

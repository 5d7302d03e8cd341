/* One line an event on stderr: text for people ("12:01:02 info  model.loaded name=x ms=812") or one
 * JSON object a line for machines.  Thread: any (one write() a line). */
#ifndef BASE_LOG_H
#define BASE_LOG_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

void log_init(enum log_level level, bool json);
bool log_on(enum log_level level);

/* Fields of one line; values are escaped as needed. Ends with log_end. Bounded at 4 KiB a line. */
struct log_line {
    enum log_level level;
    bool on;
    int len;
    char text[4096];
};
void log_begin(struct log_line *l, enum log_level level, const char *event);
void log_str(struct log_line *l, const char *key, const char *v);
void log_int(struct log_line *l, const char *key, int64_t v);
void log_num(struct log_line *l, const char *key, double v); /* three decimals */
void log_end(struct log_line *l);

/* The short form: one event with one message. */
void log_msg(enum log_level level, const char *event, const char *fmt, ...) PRINTF_LIKE(3, 4);
#endif

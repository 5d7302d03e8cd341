/* The bytes of a picture that a field of a request names.
 * Thread: one worker during api_begin; loop, where nothing has to be fetched. */
#ifndef API_IMAGE_SOURCE_H
#define API_IMAGE_SOURCE_H
#include "base/buf.h"
#include "base/err.h"

struct api_call;

/* "data:image/png;base64,iVBO...", the base64 alone, or, where the server fetches pictures, an http(s) URL:
 * the bytes of a file, into out, whose maximum is that of a picture.  What must be fetched and may not wait
 * here sets c->fetch: then the error is not to be told, the call begins again elsewhere. */
int image_source_bytes(struct api_call *c, const char *text, const char *param, struct buf *out,
                       struct err *e);
#endif

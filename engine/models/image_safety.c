/* The safety checker's look at a picture, as a unit. */
#include <stdlib.h>

#include "base/arena.h"
#include "engine/models/image_model_int.h"

struct safety_unit {
    struct image_safety pub; /* first */
    const struct image_model *m;
    struct program *p;
    struct safety_pass pass;
};

static void record_safety(struct program *p, void *arg)
{
    struct safety_unit *u = arg;
    u->pass = safety_record(u->m->safety, p);
}

static int run_safety(struct image_unit *unit, int64_t until_us, struct err *e)
{
    return program_run(((struct safety_unit *)unit)->p, until_us, e);
}

static void restart_safety(struct image_unit *unit)
{
    program_restart(((struct safety_unit *)unit)->p);
}

static void close_safety(struct image_unit *unit)
{
    program_close(((struct safety_unit *)unit)->p);
    free(unit);
}

int image_safety_open(struct image_safety **out, struct image_model *m, struct err *e)
{
    if (m->safety == NULL)
        return err_set(e, ERR_UNSUPPORTED, "this model has no safety checker");
    struct safety_unit *u = xcalloc(1, sizeof *u);
    u->m = m;
    int rc = program_open(&u->p, m->be, record_safety, u, e);
    if (rc != 0) {
        free(u);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_safety,
                                      .restart = restart_safety,
                                      .close = close_safety};
    u->pub.seen = program_host(u->p, &u->pass.seen, PROGRAM_OUT);
    u->pub.cosines = program_host(u->p, &u->pass.cosines, PROGRAM_OUT);
    *out = &u->pub;
    if (u->pub.seen != NULL && u->pub.cosines != NULL &&
        program_host(u->p, &u->pass.pixels, PROGRAM_IN) != NULL)
        return 0;
    return image_no_host_memory(&u->pub.unit, e);
}

size_t image_safety_bytes(struct image_model *m, struct err *e)
{
    struct safety_unit u = {.m = m};
    if (m->safety == NULL) {
        err_set(e, ERR_UNSUPPORTED, "this model has no safety checker");
        return 0;
    }
    return program_bytes(m->be, record_safety, &u, e);
}

int image_safety_look(struct image_safety *pub, const struct image *rgb, struct err *e)
{
    struct safety_unit *u = (struct safety_unit *)pub;
    return safety_look(u->m->safety, rgb, program_host(u->p, &u->pass.pixels, PROGRAM_IN), e);
}

void image_safety_judge(const struct image_safety *pub, struct safety_result *out)
{
    const struct safety_unit *u = (const struct safety_unit *)pub;
    safety_judge(u->m->safety, pub->cosines, out);
}

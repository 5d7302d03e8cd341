/* Whose turn it is among the pictures of one image model, so that neither small ones wait for large ones nor the
 * other way round.
 * Thread: engine.
 *
 * A picture is charged for every call of the UNet by its rows and its size; the least charged one is next, and a new
 * one starts level with it.  So pictures share the model by time, not by steps: while one of 512x512 makes
 * a step, one of 64x64 makes dozens.
 *
 * Who comes in: jobs wait in the order of when they are due, which is their arrival plus a few times their own
 * work.  A short job passes long ones that have come shortly before it, and a long one is passed only by those that
 * come while it is not due.  A job counts the places of those that run and are not much longer than itself, so
 * short ones come in beside long ones that have taken all places, up to as many again. */
#ifndef ENGINE_TURNS_H
#define ENGINE_TURNS_H
#include "engine/picture.h"

/* Work is counted in latent pixels times rows times calls. */
double turns_cost(const struct image_task *it); /* of one call for one picture */
double turns_work(const struct image_task *it); /* of the whole job */

/* The list of pictures, the next one first. */
void turns_add(struct picture **head, struct picture *p); /* a new one */
void turns_remove(struct picture **head, const struct picture *p);
void turns_charge(struct picture **head, struct picture *p); /* it had a call */

/* Does one of another size wait that is much cheaper?  Then a pass of p should be short. */
bool turns_holds_up(const struct picture *head, const struct picture *p);
/* Pictures of tasks that are not much longer than the job. */
int turns_places(const struct image_task *tasks, const struct image_task *it);
/* When it is due (clock_us), for a job that came at submit_us. */
int64_t turns_due(const struct image_task *it, int64_t submit_us, double us_per_work);
#endif

/* Order and shares of pictures; turns.h says by which rules. */
#include "engine/turns.h"

enum {
    MUCH = 4,    /* times as long, or as large */
    PATIENCE = 4 /* times its own work a job may be passed by others */
};

double turns_cost(const struct image_task *it)
{
    return (double)it->shape.h * it->shape.w * picture_n_sides(it) * steer_cost(it) *
           step_cache_cost(it);
}

double turns_work(const struct image_task *it)
{
    return turns_cost(it) * noise_n_calls(it->noise) * it->spec.n;
}

/* Behind those that were charged as much. */
static void insert(struct picture **head, struct picture *p)
{
    while (*head && (*head)->charged <= p->charged)
        head = &(*head)->next;
    p->next = *head;
    *head = p;
}

void turns_add(struct picture **head, struct picture *p)
{
    p->charged = *head ? (*head)->charged : 0;
    p->next = *head; /* it need not wait until all others had a call */
    *head = p;
}

void turns_remove(struct picture **head, const struct picture *p)
{
    while (*head && *head != p)
        head = &(*head)->next;
    if (*head)
        *head = p->next;
}

void turns_charge(struct picture **head, struct picture *p)
{
    turns_remove(head, p);
    p->charged += turns_cost(p->task);
    insert(head, p);
}

bool turns_holds_up(const struct picture *head, const struct picture *p)
{
    double limit = turns_cost(p->task) / MUCH;
    for (; head; head = head->next) {
        if (turns_cost(head->task) <= limit)
            return true;
    }
    return false;
}

int turns_places(const struct image_task *tasks, const struct image_task *it)
{
    int n = 0;
    for (; tasks; tasks = tasks->next) {
        if (turns_work(tasks) < MUCH * turns_work(it))
            n += tasks->spec.n;
    }
    return n;
}

int64_t turns_due(const struct image_task *it, int64_t submit_us, double us_per_work)
{
    return submit_us + (int64_t)(PATIENCE * us_per_work * turns_work(it));
}

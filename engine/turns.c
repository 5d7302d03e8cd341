/* Order and shares of pictures; turns.h says by which rules. */
#include "engine/turns.h"

enum {
    SHORT = 4,   /* times its work is less than what any other has left */
    PATIENCE = 4 /* times its own work a job may be passed by others */
};

double turns_cost(const struct image_task *it)
{
    return (double)it->shape.h * it->shape.w * (it->guided ? 2 : 1);
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
    insert(head, p);
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
    double limit = turns_cost(p->task) / SHORT;
    for (; head; head = head->next) {
        if (turns_cost(head->task) <= limit)
            return true;
    }
    return false;
}

static double work_left(const struct image_task *it)
{
    double sum = 0;
    for (int i = 0; i < it->spec.n; i++)
        sum += turns_cost(it) * (noise_n_calls(it->noise) - it->pictures[i].call);
    return sum;
}

bool turns_is_short(const struct image_task *tasks, const struct image_task *it)
{
    double work = SHORT * turns_work(it);
    for (; tasks; tasks = tasks->next) {
        if (work_left(tasks) < work)
            return false;
    }
    return true;
}

int64_t turns_due(const struct image_task *it, int64_t submit_us, double us_per_work)
{
    return submit_us + (int64_t)(PATIENCE * us_per_work * turns_work(it));
}

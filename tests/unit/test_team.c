/* Memory of a team, over backends that only count what they gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "kernels/team.h"

enum { N = 3 };

static struct backend members[N];
static struct backend_team team = {.n = N};
static int given[N], refuse_at; /* the member that has no memory, or -1 */

static int index_of(const struct backend *be)
{
    return (int)(be - members);
}

static void *take(struct backend *be, size_t bytes, struct err *e)
{
    if (index_of(be) == refuse_at) {
        err_set(e, ERR_NOMEM, "no memory");
        return NULL;
    }
    given[index_of(be)]++;
    return malloc(bytes);
}

static void give(struct backend *be, void *p)
{
    given[index_of(be)] -= p != NULL;
    free(p);
}

static int set_up(void **state)
{
    (void)state;
    refuse_at = -1;
    team.n_memories = 0;
    for (int i = 0; i < N; i++) {
        members[i] = (struct backend){.name = "fake", .alloc = take, .free = give};
        team.members[i] = &members[i];
        given[i] = 0;
    }
    members[0].team = &team;
    return 0;
}

static void memory_has_a_twin_on_every_member(void **state)
{
    (void)state;
    char *a = team_alloc(members, 100, NULL), *b = team_alloc(members, 50, NULL), outside;
    assert_ptr_equal(team_twin(&team, 0, a + 7), a + 7);
    char *twin = team_twin(&team, 2, a);
    assert_ptr_equal(team_twin(&team, 2, a + 99), twin + 99);
    assert_ptr_not_equal(team_twin(&team, 1, b), team_twin(&team, 2, b));
    assert_null(team_twin(&team, 1, &outside));
    team_free(members, a);
    assert_null(team_twin(&team, 1, a));
    assert_non_null(team_twin(&team, 1, b));
    team_free(members, b);
    for (int i = 0; i < N; i++)
        assert_int_equal(given[i], 0);
}

static void without_a_team_it_is_the_backends_own(void **state)
{
    (void)state;
    members[0].team = NULL;
    void *p = team_alloc(members, 10, NULL);
    assert_int_equal(given[0], 1);
    assert_int_equal(given[1], 0);
    team_free(members, p);
    team_free(members, NULL);
    assert_int_equal(given[0], 0);
}

static void a_member_without_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    struct err e = {0};
    refuse_at = 2;
    assert_null(team_alloc(members, 10, &e));
    assert_int_equal(e.code, ERR_NOMEM);
    assert_int_equal(team.n_memories, 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(given[i], 0);
}

static void there_are_only_so_many(void **state)
{
    (void)state;
    struct err e = {0};
    void *all[TEAM_MEMORIES];
    for (int i = 0; i < TEAM_MEMORIES; i++)
        assert_non_null(all[i] = team_alloc(members, 1, &e));
    assert_null(team_alloc(members, 1, &e));
    assert_int_equal(e.code, ERR_TOOBIG);
    for (int i = 0; i < TEAM_MEMORIES; i++)
        team_free(members, all[i]);
    assert_int_equal(given[1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(memory_has_a_twin_on_every_member, set_up),
        cmocka_unit_test_setup(without_a_team_it_is_the_backends_own, set_up),
        cmocka_unit_test_setup(a_member_without_memory_leaves_nothing_behind, set_up),
        cmocka_unit_test_setup(there_are_only_so_many, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The linker's name of a function of this program, static ones included: how a host-side kernel is found
 * in the PTX.  Thread: one at a time. */
#ifndef TESTS_PTXVM_SYMBOL_H
#define TESTS_PTXVM_SYMBOL_H

#ifdef __cplusplus
extern "C" {
#endif

/* NULL when the program has no symbol there (it was stripped). */
const char *symbol_name(const void *function);

#ifdef __cplusplus
}
#endif
#endif

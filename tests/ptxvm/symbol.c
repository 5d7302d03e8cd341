/* Reads the symbol table of /proc/self/exe, which dladdr does not: it knows exported names only. */
#include "tests/ptxvm/symbol.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <string.h>

#include "base/file.h"

static struct file program;
static const Elf64_Sym *symbols;
static size_t n_symbols;
static const char *names;
static size_t names_bytes;
static ElfW(Addr) base;

static int first_object(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    *(ElfW(Addr) *)context = info->dlpi_addr;
    return 1; /* the program itself comes first */
}

static void open_table(void)
{
    struct err e = {0};
    if (file_open(&program, "/proc/self/exe", &e) != 0 || program.size < sizeof(Elf64_Ehdr))
        return;
    const Elf64_Ehdr *h = (const Elf64_Ehdr *)program.data;
    if (h->e_shoff > program.size ||
        program.size - h->e_shoff < (size_t)h->e_shnum * sizeof(Elf64_Shdr))
        return;
    const Elf64_Shdr *s = (const Elf64_Shdr *)(program.data + h->e_shoff);
    for (int n = 0; n < h->e_shnum; n++) {
        if (s[n].sh_type != SHT_SYMTAB || s[n].sh_link >= h->e_shnum)
            continue;
        const Elf64_Shdr *strings = &s[s[n].sh_link];
        if (s[n].sh_offset + s[n].sh_size > program.size ||
            strings->sh_offset + strings->sh_size > program.size)
            return;
        symbols = (const Elf64_Sym *)(program.data + s[n].sh_offset);
        n_symbols = s[n].sh_size / sizeof(Elf64_Sym);
        names = program.data + strings->sh_offset;
        names_bytes = strings->sh_size;
    }
    dl_iterate_phdr(first_object, &base);
}

const char *symbol_name(const void *function)
{
    if (program.data == NULL)
        open_table();
    for (size_t n = 0; n < n_symbols; n++)
        if (ELF64_ST_TYPE(symbols[n].st_info) == STT_FUNC &&
            base + symbols[n].st_value == (ElfW(Addr))function && symbols[n].st_name < names_bytes)
            return names + symbols[n].st_name;
    return NULL;
}

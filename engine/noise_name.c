/* The names of schedulers: ours, those of diffusers' classes and of stable-diffusion-webui, each with an ending
 * that says how the noise falls from step to step. */
#include <stdio.h>

#include "engine/noise.h"

static const struct ending {
    const char *name, *label;
    enum noise_sigmas sigmas;
    enum noise_spacing spacing;
} endings[] = {
    {"", "", NOISE_SIGMAS_UNSET, NOISE_SPACING_UNSET},
    {"karras", "Karras", NOISE_SIGMAS_KARRAS, NOISE_SPACING_UNSET},
    {"exponential", "Exponential", NOISE_SIGMAS_EXPONENTIAL, NOISE_SPACING_UNSET},
    {"beta", "Beta", NOISE_SIGMAS_BETA, NOISE_SPACING_UNSET},
    {"align_your_steps", "Align Your Steps", NOISE_SIGMAS_AYS, NOISE_SPACING_UNSET},
    {"kl_optimal", "KL Optimal", NOISE_SIGMAS_KL, NOISE_SPACING_UNSET},
    {"leading", "Leading", NOISE_SIGMAS_UNSET, NOISE_LEADING},
    {"trailing", "Trailing", NOISE_SIGMAS_UNSET, NOISE_TRAILING},
};
enum { N_ENDINGS = sizeof endings / sizeof *endings };

#define SIGMAS     NOISE_NAME_SIGMAS
#define SPACINGS   NOISE_NAME_SPACINGS
#define BOTH       (SIGMAS | SPACINGS)
#define MULTISTEP  "DPMSolverMultistepScheduler"
#define SINGLESTEP "DPMSolverSinglestepScheduler"

/* The first line of a class is the class as its config says. */
static const struct noise_name names[] = {
    {"ddim", "DDIM", "DDIMScheduler", NOISE_DDIM, SPACINGS},
    {"ddpm", "DDPM", "DDPMScheduler", NOISE_DDPM, SPACINGS},
    {"pndm", "PLMS", "PNDMScheduler", NOISE_PNDM, SPACINGS},
    {"lms", "LMS", "LMSDiscreteScheduler", NOISE_LMS, BOTH},
    {"euler", "Euler", "EulerDiscreteScheduler", NOISE_EULER, BOTH},
    {"euler_a", "Euler a", "EulerAncestralDiscreteScheduler", NOISE_EULER_A, BOTH},
    {"heun", "Heun", "HeunDiscreteScheduler", NOISE_HEUN, BOTH},
    {"dpm2", "DPM2", "KDPM2DiscreteScheduler", NOISE_DPM2, BOTH},
    {"dpm2_a", "DPM2 a", "KDPM2AncestralDiscreteScheduler", NOISE_DPM2_A, BOTH},
    {"dpmpp_2m", "DPM++ 2M", MULTISTEP, NOISE_DPMPP_2M, BOTH},
    {"dpmpp_2m_sde", "DPM++ 2M SDE", MULTISTEP, NOISE_DPMPP_2M_SDE, BOTH},
    {"dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun", MULTISTEP, NOISE_DPMPP_2M_SDE_HEUN, BOTH},
    {"dpmpp_3m_sde", "DPM++ 3M SDE", MULTISTEP, NOISE_DPMPP_3M_SDE, BOTH},
    {"dpmpp_2s", "DPM++ 2S", SINGLESTEP, NOISE_DPMPP_2S, SIGMAS},
    {"dpmpp_2s_a", "DPM++ 2S a", NULL, NOISE_DPMPP_2S_A, BOTH},
    {"dpmpp_sde", "DPM++ SDE", "DPMSolverSDEScheduler", NOISE_DPMPP_SDE, BOTH},
    {"unipc", "UniPC", "UniPCMultistepScheduler", NOISE_UNIPC, BOTH},
    {"lcm", "LCM", "LCMScheduler", NOISE_LCM, 0},
    {"tcd", "TCD", "TCDScheduler", NOISE_TCD, 0},
    {"dpm_fast", "DPM fast", NULL, NOISE_DPM_FAST, 0},
    {"restart", "Restart", NULL, NOISE_RESTART, SIGMAS},
};
enum { N_NAMES = sizeof names / sizeof *names };

const struct noise_name *noise_name_list(int *n)
{
    *n = N_NAMES;
    return names;
}

/* The next letter that counts: case, blanks, hyphens and underscores do not, and ++ is pp. */
static int next_letter(const char **s)
{
    while (**s == ' ' || **s == '_' || **s == '-')
        (*s)++;
    int c = (unsigned char)**s;
    if (c == 0)
        return 0;
    (*s)++;
    if (c == '+')
        return 'p';
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

/* Is a the name b with this ending? */
static bool same(const char *a, const char *b, const char *ending)
{
    for (;;) {
        int x = next_letter(&a), y = next_letter(&b);
        if (y == 0)
            y = next_letter(&ending);
        if (x != y)
            return false;
        if (x == 0)
            return true;
    }
}

static bool may_end(const struct noise_name *n, const struct ending *end)
{
    unsigned kind = end->sigmas != NOISE_SIGMAS_UNSET     ? NOISE_NAME_SIGMAS
                    : end->spacing != NOISE_SPACING_UNSET ? NOISE_NAME_SPACINGS
                                                          : 0;
    return (n->endings & kind) == kind;
}

bool noise_name_find(const char *name, struct noise_choice *out)
{
    for (int i = 0; i < N_NAMES * N_ENDINGS; i++) {
        const struct noise_name *n = &names[i / N_ENDINGS];
        const struct ending *end = &endings[i % N_ENDINGS];
        if (!may_end(n, end))
            continue;
        if (same(name, n->name, end->name) || same(name, n->label, end->name) ||
            (n->class_name != NULL && same(name, n->class_name, end->name))) {
            *out = (struct noise_choice){n->scheduler, end->sigmas, end->spacing};
            return true;
        }
    }
    return false;
}

/* A spacing is not told beside sigmas. */
static bool says(const struct ending *end, const struct noise_choice *choice)
{
    if (end->sigmas != NOISE_SIGMAS_UNSET)
        return end->sigmas == choice->sigmas;
    return choice->sigmas <= NOISE_SIGMAS_PLAIN && end->spacing == choice->spacing;
}

void noise_name_label(const struct noise_choice *choice, char out[NOISE_NAME_MAX])
{
    out[0] = '\0';
    for (int i = 0; i < N_NAMES; i++) {
        const struct noise_name *n = &names[i];
        if (n->scheduler != choice->scheduler)
            continue;
        int k = N_ENDINGS - 1;
        while (k > 0 && !(may_end(n, &endings[k]) && says(&endings[k], choice)))
            k--;
        snprintf(out, NOISE_NAME_MAX, "%s%s%s", n->label, k > 0 ? " " : "", endings[k].label);
        return;
    }
}

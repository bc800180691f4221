#include "copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>

enum { LINE = 64 };

static void copy_lines(unsigned char *to, const unsigned char *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) {
        __m128i a = _mm_loadu_si128((const __m128i *)(from + i)), b = _mm_loadu_si128((const __m128i *)(from + i + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(from + i + 32)), d = _mm_loadu_si128((const __m128i *)(from + i + 48));
        /* A whole line at a time: a part of one would be merged in memory. */
        _mm_stream_si128((__m128i *)(to + i), a);
        _mm_stream_si128((__m128i *)(to + i + 16), b);
        _mm_stream_si128((__m128i *)(to + i + 32), c);
        _mm_stream_si128((__m128i *)(to + i + 48), d);
    }
    /* Such stores are not ordered by a later release, which is no instruction of its own here. */
    _mm_sfence();
}

void rp_copy(void *to, const void *from, size_t n)
{
    if (n < RP_COPY_PAST) {
        memcpy(to, from, n);
        return;
    }
    unsigned char *t = to;
    const unsigned char *f = from;
    size_t head = -(uintptr_t)t % LINE, lines = (n - head) / LINE * LINE;
    memcpy(t, f, head);
    copy_lines(t + head, f + head, lines);
    memcpy(t + head + lines, f + head + lines, n - head - lines);
}

#else

/* Where the machine's own memcpy is as good, or nobody has measured. */
void rp_copy(void *to, const void *from, size_t n) { memcpy(to, from, n); }

#endif

/* What stands around the declarations of every public header: C++ sees them as C, and the shared library exports what
 * is declared in between, and nothing else (everything is compiled with -fvisibility=hidden). */
#ifndef MOEPLAN_API_H
#define MOEPLAN_API_H

#if defined(__cplusplus)
#define MP_EXTERN_C_BEGIN extern "C" {
#define MP_EXTERN_C_END }
#else
#define MP_EXTERN_C_BEGIN
#define MP_EXTERN_C_END
#endif

#if defined(__GNUC__)
#define MP_API_BEGIN MP_EXTERN_C_BEGIN _Pragma("GCC visibility push(default)")
#define MP_API_END _Pragma("GCC visibility pop") MP_EXTERN_C_END
#else
#define MP_API_BEGIN MP_EXTERN_C_BEGIN
#define MP_API_END MP_EXTERN_C_END
#endif

#endif

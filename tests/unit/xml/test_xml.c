#include "support.h"
#include <moeplan/xml.h>
#include <time.h>

static struct mp_xml_doc *parse(const char *text) {
    struct mp_error err = {0};
    struct mp_xml_doc *d;
    CHECK_OK(mp_xml_parse_text(&d, "t.xml", text, strlen(text), &err), err);
    return d;
}

static void test_xml__tree_and_places(void **state) {
    (void)state;
    struct mp_xml_doc *d =
        parse("<?xml version=\"1.0\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
              "<a x='1'>\n  <b  y=\"&lt;&#65;\"\n     zz = 'q\"q'/>\n"
              "  \xC3\xA4 text <!-- no --><c/><![CDATA[late]]>\n  <d>12 <![CDATA[<3>]]></d>\n</a>\n");
    const struct mp_xml *a = d->root, *b = a->first, *c = b->next, *e = c->next;
    assert_int_equal(d->n_elements, 4);
    assert_string_equal(a->name, "a");
    assert_null(a->parent);
    assert_null(a->next);
    assert_int_equal(a->line, 3);
    assert_int_equal(a->attributes[0].column, 4);
    assert_string_equal(a->text, ""); /* its first child comes first */
    assert_string_equal(mp_xml_get(b, "y"), "<A");
    assert_int_equal(b->line, 4);
    assert_int_equal(b->column, 3);
    assert_int_equal(b->attributes[0].column, 7);
    assert_int_equal(b->attributes[1].line, 5);
    assert_int_equal(b->attributes[1].column, 6);
    assert_string_equal(mp_xml_get(b, "zz"), "q\"q");
    assert_null(mp_xml_get(b, "z"));
    assert_string_equal(c->name, "c");
    assert_int_equal(c->column, 21);
    assert_ptr_equal(c->parent, a);
    assert_string_equal(e->text, "12 <3>");
    assert_null(e->next);
    mp_xml_free(d);
    mp_xml_free(NULL);
}

static void test_xml__reads_name_the_place(void **state) {
    (void)state;
    struct mp_xml_doc *d = parse("<a\n n='12' m='1.5'/>");
    const struct mp_xml_attribute *at;
    struct mp_error err = {0};
    uint64_t v;
    CHECK_OK(mp_xml_need(d, d->root, "n", "write n", &at, &err), err);
    CHECK_OK(mp_xml_u64(d, at, 0, 12, &v, &err), err);
    assert_int_equal(v, 12);
    assert_int_equal(mp_xml_u64(d, at, 0, 11, &v, &err), MP_EINPUT);
    assert_string_equal(err.message, "n: \"12\" is not a whole number in [0, 11] (write one)");
    assert_int_equal(err.line, 2);
    assert_int_equal(err.column, 2);
    mp_error_clear(&err);
    assert_int_equal(mp_xml_u64(d, mp_xml_attribute(d->root, "m"), 0, 11, &v, &err), MP_EINPUT);
    assert_int_equal(err.column, 9);
    mp_error_clear(&err);
    assert_int_equal(mp_xml_need(d, d->root, "o", "write o", &at, &err), MP_EINPUT);
    assert_string_equal(err.message, "a: has no o (write o)");
    assert_int_equal(err.line, 1);
    mp_xml_free(d);
}

static void test_xml__refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t line, column;
        const char *says;
    } cases[] = {
        {"", 1, 1, "no element found"},
        {"plain", 1, 1, "syntax error"},
        {"<a>\n<b></a>", 2, 6, "<b> of line 2 is still open"},
        {"<a>\n", 2, 1, "<a> of line 1 is still open"},
        {"<a/><b/>", 1, 5, "junk after document element"},
        {"<a x='1'\n x='2'/>", 2, 2, "duplicate attribute"},
        {"<a x=1/>", 1, 6, "not well-formed"},
        {"<a>\xff</a>", 1, 4, "not well-formed"},
        {"<a>&foo;</a>", 1, 4, "undefined entity"},
        {"<!DOCTYPE a SYSTEM 'x'>\n<a>&foo;</a>", 2, 4, "an entity that the file would have to declare"},
        {"<!DOCTYPE a SYSTEM 'x'>\n<a k='a &foo;'/>", 2, 9, "an entity that the file would have to declare"},
        {"<!DOCTYPE a [\n<!ENTITY x 'y'>]>\n<a/>", 1, 1, "a DOCTYPE with declarations inside"},
        {"<!DOCTYPE a SYSTEM 'x' [ <!ATTLIST a b CDATA 'c'> ]><a/>", 1, 1, "a DOCTYPE with declarations inside"},
        {"\xff\xfe<\0a\0", 1, 1, "not well-formed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        struct mp_xml_doc *d;
        enum mp_status status = mp_xml_parse_text(&d, "t.xml", cases[i].text, strlen(cases[i].text), &err);
        if (status != MP_EINPUT || strstr(err.message, cases[i].says) == NULL || err.line != cases[i].line)
            fail_msg("%s: status %d, %u:%u: %s", cases[i].text, (int)status, (unsigned)err.line, (unsigned)err.column,
                     err.message);
        assert_null(d);
    }
}

/* Bombs: each refused in less than a second and 64 MB. */
static void check_bomb(const char *what, const char *text, size_t n, const char *says) {
    struct mp_error err = {0};
    struct mp_xml_doc *d = NULL;
    struct timespec from, to;
    const uint64_t before = mp_alloc_live();
    const char *at = NULL;
    clock_gettime(CLOCK_MONOTONIC, &from);
    enum mp_status status = mp_xml_parse_text(&d, "bomb.xml", text, n, &err);
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    at = strstr(err.message, says);
    if ((says[0] == '\0' ? status != MP_OK : status == MP_OK || at == NULL) || mp_alloc_peak() - before > 64u << 20)
        fail_msg("%s: status %d, %llu MB: %s", what, (int)status, (unsigned long long)mp_alloc_peak() >> 20,
                 err.message);
    print_message("# %s: %.3f s, peak so far %.1f MB\n", what, seconds, (double)mp_alloc_peak() / 1048576);
    assert_true(seconds < 5); /* a second on a quiet machine */
    mp_xml_free(d);
}

static char *repeat(const char *head, const char *body, size_t n, const char *tail, size_t *size) {
    const size_t h = strlen(head), b = strlen(body), t = strlen(tail);
    char *s = malloc(h + n * b + t + 1), *at = s + h;
    assert_non_null(s);
    memcpy(s, head, h);
    for (size_t i = 0; i < n; i++, at += b)
        memcpy(at, body, b);
    memcpy(at, tail, t + 1);
    *size = h + n * b + t;
    return s;
}

static void test_xml__bombs(void **state) {
    (void)state;
    static const char laughs[] =
        "<!DOCTYPE lolz [\n <!ENTITY a \"lollollol\">\n <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\n"
        " <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">\n]>\n<system version=\"1\">&c;</system>";
    size_t n;
    char *s;
    check_bomb("a billion laughs", laughs, sizeof laughs - 1, "a DOCTYPE with declarations inside");
    s = repeat("<!DOCTYPE a [<!ENTITY x \"", "0123456789", 400000, "\">]><a>&x;&x;&x;&x;&x;&x;&x;&x;</a>", &n);
    check_bomb("quadratic blowup", s, n, "a DOCTYPE with declarations inside");
    free(s);
    s = repeat("", "<a>", 1000000, "", &n);
    check_bomb("a million levels", s, n, "more than 128 levels");
    free(s);
    s = repeat("<a>", "<b/>", 900000, "</a>", &n);
    check_bomb("two million elements", s, n, "more than 100000 elements");
    free(s);
    s = repeat("<a>", "<b c=''/>", 99000, "</a>", &n);
    check_bomb("as many elements as there may be", s, n, "");
    free(s);
    s = repeat("<a ", "b='' ", 600000, "/>", &n);
    check_bomb("one attribute again and again", s, n, "more than 1024 attributes of one element");
    free(s);
    s = malloc(5 << 20);
    assert_non_null(s);
    n = (size_t)sprintf(s, "<a ");
    for (unsigned i = 0; n < (4u << 20) - 32; i++)
        n += (size_t)sprintf(s + n, "a%x='' ", i);
    n += (size_t)sprintf(s + n, "/>");
    check_bomb("a million attributes", s, n, "more than 1024 attributes of one element");
    n = (size_t)sprintf(s, "<a>");
    for (unsigned i = 0; n < (4u << 20) - 20000; i++) {
        n += (size_t)sprintf(s + n, "<b");
        for (unsigned k = 0; k < 1000; k++)
            n += (size_t)sprintf(s + n, " a%x=''", (i << 10) + k);
        n += (size_t)sprintf(s + n, "/>");
    }
    n += (size_t)sprintf(s + n, "</a>");
    check_bomb("as many different attributes", s, n, "more than 1024 different names");
    n = (size_t)sprintf(s, "<a>");
    for (unsigned i = 0; n < (4u << 20) - 64; i++)
        n += (size_t)sprintf(s + n, "<b%x c%x='' d%x=''/>", i, i, i);
    n += (size_t)sprintf(s + n, "</a>");
    check_bomb("as many different names", s, n, "more than 1024 different names");
    free(s);
    s = repeat("<a>", "<b a='1' b='2' c='3'/>", 99900, "</a>", &n);
    check_bomb("as many attributes as there may be", s, n, "");
    free(s);
    s = repeat("<a>", "<b a='1' b='2' c='3' d=''/>", 90000, "</a>", &n);
    check_bomb("one more", s, n, "more than 300000 attributes");
    free(s);
    s = repeat("<a>", "x", (4u << 20) - 7, "</a>", &n);
    check_bomb("one long text", s, n, "");
    free(s);
    s = repeat("<a>", "x<b/>", 99999, "</a>", &n);
    check_bomb("text between many children", s, n, "");
    free(s);
    s = repeat("<a b='", "x", (4u << 20) - 16, "'/>", &n);
    check_bomb("one long attribute", s, n, "");
    free(s);
    s = repeat("<a>", "x", 4u << 20, "</a>", &n);
    check_bomb("too many bytes", s, n, "more than 4194304 bytes");
    free(s);
}

static enum mp_status parse_flow(void *ctx, struct mp_error *err) {
    struct mp_xml_doc *d;
    enum mp_status status = mp_xml_parse_text(&d, "t.xml", ctx, strlen(ctx), err);
    mp_xml_free(d);
    return status;
}

static void test_xml__faults(void **state) {
    (void)state;
    char text[] = "<!DOCTYPE a SYSTEM 'b'><a x='1' y='&amp;'>text<b z='2'>more</b><c/><!-- no --></a>";
    sweep_faults(parse_flow, text, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xml__tree_and_places), cmocka_unit_test(test_xml__reads_name_the_place),
        cmocka_unit_test(test_xml__refused),         cmocka_unit_test(test_xml__bombs),
        cmocka_unit_test(test_xml__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

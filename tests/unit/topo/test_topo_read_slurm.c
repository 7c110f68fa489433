/* Slurm's topology files. */
#include "import.h"
#include "../../../src/topo/topo_slurm.h"

static void test_topo_read_slurm__tree(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("",
                    "# a tree\nSwitchName=s0 Nodes=tux[00-03,12]\nswitchname=s1 Nodes=tux[04-07] \\\n"
                    "  LinkSpeed=900\nSwitchName=s2 Switches=s[0-1]\n",
                    ":8:h100");
    assert_int_equal(t->n_gpus, 72);
    assert_int_equal(t->n_levels, 3);
    assert_int_equal(t->levels[0].n_groups, 9);
    assert_int_equal(t->levels[1].n_groups, 2);
    assert_int_equal(t->gpus[39].group[1], 0);
    assert_int_equal(t->gpus[40].group[1], 1);
    assert_int_equal(port_out(t, 0, 1), 48850000000);
    assert_non_null(strstr(t->source, "LinkSpeed has no unit"));
    mp_topology_free(t);
}

/* A leaf right below the root, beside a spine: it is a group of its own at the spines' level. */
static void test_topo_read_slurm__leaves_at_different_heights(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("",
                    "SwitchName=root Switches=spine,l3\nSwitchName=spine Switches=l[1-2]\n"
                    "SwitchName=l1 Nodes=a[1-2]\nSwitchName=l2 Nodes=b[1-3]\nSwitchName=l3 Nodes=c1\n",
                    ":1:h100");
    assert_int_equal(t->n_levels, 4);
    assert_int_equal(t->levels[1].n_groups, 3);
    assert_int_equal(t->levels[2].n_groups, 2);
    assert_int_equal(t->gpus[4].group[2], 0);
    assert_int_equal(t->gpus[5].group[2], 1);
    mp_topology_free(t);
}

static const char yaml[] =
    "---\n- topology: topo1\n  tree:\n    switches:\n      - {switch: root, children: \"s[1-2]\"}\n"
    "      - {switch: s1, nodes: \"node[01-02]\"}\n      - {switch: s2, nodes: \"node[03-05]\"}\n"
    "- topology: topo2\n  cluster_default: %s\n  block: { block_sizes: [4, 16], blocks: [ {block: b1, "
    "nodes: \"node[01-04]\"}, {block: b2, nodes: \"node[05-08]\"} ] }\n";

static void test_topo_read_slurm__yaml_takes_the_default_or_the_first(void **state) {
    (void)state;
    char text[1000];
    snprintf(text, sizeof text, yaml, "false");
    struct mp_topology *t = import_text("", text, ":4:a100");
    assert_int_equal(t->n_gpus, 20);
    assert_string_equal(t->levels[1].name, "leaf");
    mp_topology_free(t);
    snprintf(text, sizeof text, yaml, "true");
    t = import_text("", text, ":4:a100");
    assert_int_equal(t->n_gpus, 32);
    assert_string_equal(t->levels[1].name, "block");
    assert_int_equal(t->levels[1].n_groups, 2);
    mp_topology_free(t);
    t = import_text("", "BlockName=b1 Nodes=n[1-4]\nBlockName=b2 Nodes=n[5-8]\nBlockSizes=4,8\n", ":4:b200");
    assert_int_equal(t->n_gpus, 32);
    assert_int_equal(t->levels[1].n_groups, 2);
    mp_topology_free(t);
}

static void expand(const char *list, const char *want) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct slurm_names names;
    char got[600] = "";
    enum mp_status status = slurm_expand(&names, list, strlen(list), 12, arena, "list", 3, 10, &err);
    if (status == MP_OK)
        for (uint32_t i = 0; i < names.n; i++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", i > 0 ? " " : "", names.name[i]);
    else
        mp_error_text(&err, got, sizeof got);
    if (status == MP_OK ? strcmp(got, want) != 0 : strstr(got, want) == NULL)
        fail_msg("%s: %s", list, got);
    mp_arena_free(arena);
}

static void test_topo_read_slurm__hostlists(void **state) {
    (void)state;
    expand("tux", "tux");
    expand("a,b", "a b");
    expand("tux[0-3,12]", "tux0 tux1 tux2 tux3 tux12");
    expand("n[08-11]", "n08 n09 n10 n11");
    expand("n[8-011]", "n8 n9 n10 n11");
    expand("r[1-2]n[01-03]x", "r1n01x r1n02x r1n03x r2n01x r2n02x r2n03x");
    expand("[1-2],c", "1 2 c");
    expand("n[0-999999999]", "list:3:10: with this there are more than 12 names");
    expand("a,n[0-999999999999999999]x[0-999999999999999999]", "list:3:12: with this there are more than 12 names");
    expand("n[0-9999999999999999999]", "list:3:14: a number of at most 18 digits");
    expand("n[3-1]", "list:3:12: the range ends below its start");
    expand("n[1", "list:3:13: the bracket is not closed");
    expand("n[]", "list:3:12: a number of at most 18 digits");
    expand("n[1-]", "list:3:14: a number");
    expand("n[1;2]", "list:3:13: a comma or");
    expand("n1]", "list:3:12: a \"]\" without");
    expand("a,,b", "list:3:12: a name is missing here");
    expand("a,", "list:3:12: a name is missing here");
    expand("", "list:3:10: a name is missing here");
}

static void test_topo_read_slurm__refuses(void **state) {
    (void)state;
    import_refused("", "SwitchName=s0 Nodes=n[0-999999999]\n", ":8:h100", 1, 21, "more than 512 names");
    import_refused("", "SwitchName=a Nodes=n[1-2]\nSwitchName=b Nodes=n[2-3]\nSwitchName=r Switches=a,b\n", ":8:h100",
                   2, 20, "node \"n2\" is here and in line 1");
    import_refused("", "SwitchName=a Nodes=n1\nSwitchName=b Nodes=n2\n", ":8:h100", 2, 12,
                   "\"b\" is in no other switch, and neither is \"a\" of line 1");
    import_refused("", "SwitchName=a Switches=b\nSwitchName=b Switches=a\n", ":8:h100", 1, 12,
                   "only switches in a circle");
    import_refused("", "SwitchName=r Nodes=n1\nSwitchName=a Switches=b\nSwitchName=b Switches=a\n", ":8:h100", 2, 12,
                   "only switches in a circle");
    import_refused("", "SwitchName=a Switches=b,c\nSwitchName=b Nodes=n1\n", ":8:h100", 1, 23,
                   "switch \"c\" is not in the file");
    import_refused("", "SwitchName=a Switches=c\nSwitchName=b Switches=c\nSwitchName=c Nodes=n1\n", ":8:h100", 2, 23,
                   "switch \"c\" is in \"a\" already");
    import_refused("", "SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", ":8:h100", 2, 12,
                   "\"a\" has a line already, 1");
    import_refused("", "SwitchName=a\n", ":8:h100", 1, 12, "nothing is below it");
    import_refused("", "SwitchName=a Nodes=n1 Switches=b\n", ":8:h100", 1, 12, "nodes and switches below one switch");
    import_refused("", "SwitchName=a Knots=n1\n", ":8:h100", 1, 14, "no such key here");
    import_refused("", "SwitchName=a Nodes\n", ":8:h100", 1, 14, "an equals sign is missing");
    import_refused("", "SwitchName=a Nodes=n1\nBlockName=b Nodes=n2\n", ":8:h100", 1, 0,
                   "switches and blocks in one file");
    import_refused("", "SwitchName=a Nodes=n1\n", ":h100", 0, 0, "the file does not say what a node is");
    import_refused("", "SwitchName=a Nodes=n1\n", ":0:h100", 0, 0, "the file does not say what a node is");
    import_refused("", "SwitchName=a Nodes=n1\n", ":8:h900", 0, 0, "\"h900\" behind the colon");
    import_refused("2x", "SwitchName=a Nodes=n1\n", ":8:h100", 0, 0, "the file names its nodes itself");
    import_refused("",
                   "SwitchName=a Nodes=n1\nSwitchName=b Switches=a\nSwitchName=c Switches=b\nSwitchName=d Switches=c\n",
                   ":8:h100", 4, 12, "4 tiers of switches");
    import_refused("", "- topology: t\n  flat: true\n", ":8:h100", 1, 3, "a flat topology groups no nodes");
    import_refused("", "- topology: t\n  tree: {switches: [{switch: s, nodes: \"n[1-\"}]}\n", ":8:h100", 2, 45,
                   "a number of");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_slurm__tree),
        cmocka_unit_test(test_topo_read_slurm__leaves_at_different_heights),
        cmocka_unit_test(test_topo_read_slurm__yaml_takes_the_default_or_the_first),
        cmocka_unit_test(test_topo_read_slurm__hostlists),
        cmocka_unit_test(test_topo_read_slurm__refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

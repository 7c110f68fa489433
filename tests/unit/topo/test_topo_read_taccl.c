/* TACCL's topology files. */
#include "import.h"

#define HEAD "{\"name\": \"box\", \"gpus_per_node\": 4, \"alpha\": 0.7, "
#define NICS "\"nics_per_node\": 2, \"remote_alpha\": 2.6, \"remote_beta\": 100, \"remote_invbw\": 102"

static void test_topo_read_taccl__one_kind_of_link_is_a_switch(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("2x", HEAD "\"node_betas_list\": [10], \"node_invbws_list\": [11], " NICS "}", ":v100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(t->levels[0].latency_ns, 700);
    assert_int_equal(t->levels[1].latency_ns, 2600);
    assert_int_equal(port_out(t, 0, 0), 104857600000);
    assert_int_equal(port_out(t, 0, 1), 10485760000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    assert_int_not_equal(t->gpus[1].out_port[1], t->gpus[2].out_port[1]);
    mp_topology_free(t);
}

static void test_topo_read_taccl__matrices_are_a_mesh(void **state) {
    (void)state;
    struct mp_topology *t = import_text(
        "",
        HEAD "\"links\": [[0,1,1,1],[1,0,1,1],[1,1,0,1],[1,1,1,0]], \"betas\": [[0,10,10,20],[10,0,10,10],[10,10,0,"
             "10],[20,10,10,0]], \"invbws\": []}",
        ":v100");
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 52428800000);
    assert_int_equal(port_out(t, 0, 0), 262144000000);
    assert_int_equal(port_out(t, 1, 0), 314572800000);
    mp_topology_free(t);
}

static void test_topo_read_taccl__groups_joined_by_links(void **state) {
    (void)state;
    struct mp_topology *t = import_text(
        "2x",
        HEAD "\"links\": [[0,1,1,0],[1,0,0,1],[1,0,0,1],[0,1,1,0]], \"betas\": [[0,10,20,0],[10,0,0,20],[20,0,0,10]"
             ",[0,20,10,0]], " NICS "}",
        ":v100");
    assert_int_equal(t->n_levels, 3);
    assert_int_equal(mp_topology_n_nodes(t), 4);
    assert_int_equal(port_out(t, 0, 0), 104857600000);
    assert_int_equal(port_out(t, 0, 1), 52428800000);
    mp_topology_free(t);
}

static void test_topo_read_taccl__refuses(void **state) {
    (void)state;
    import_refused("", "{\"name\": \"X_64KB\", \"gpus_per_node\": 4,\n\"alpha\": 1, \"node_betas_list\": [1]}", ":v100",
                   1, 10, "name: \"X_64KB\" is for chunks of 64KB");
    import_refused("", HEAD "\"node_betas_list\": [10, 20]}", ":v100", 1, 70,
                   "which pairs have which is only known of NDv2");
    import_refused("", HEAD "\"node_betas_list\": []}", ":v100", 1, 70, "is not a list of one or two numbers");
    import_refused("", HEAD "\"node_betas_list\": [-1]}", ":v100", 1, 71, "node_betas_list/0: -1 is outside");
    import_refused("2x", HEAD "\"node_betas_list\": [10]}", ":v100", 1, 1, "nics_per_node: is missing");
    import_refused("2x",
                   HEAD "\"node_betas_list\": [10], \"nics_per_node\": 3, \"remote_alpha\": 1, \"remote_beta\": 1}",
                   ":v100", 1, 93, "3 NICs do not divide evenly among 4 GPUs");
    import_refused("", HEAD "\"links\": [[0,1],[1,0]], \"betas\": [[0,1],[1,0]]}", ":v100", 1, 84,
                   "betas: is not a matrix of gpus_per_node rows");
    import_refused("",
                   HEAD
                   "\"links\": [[0,1,0,0],[1,0,1,0],[0,1,0,1],[0,0,1,0]], \"betas\": [[0,9,0,0],[9,0,9,0],[0,9,0,9],"
                   "[0,0,9,0]]}",
                   ":v100", 1, 60, "GPU 0 has no link out of its group");
    import_refused("", "{\"gpus_per_node\": 2.5, \"alpha\": 1, \"node_betas_list\": [10]}", ":v100", 1, 19,
                   "2.5 is not a whole number");
    import_refused("", "{\"gpus_per_node\": 4, \"node_betas_list\": [10]}", ":v100", 1, 1, "alpha: is missing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_taccl__one_kind_of_link_is_a_switch),
        cmocka_unit_test(test_topo_read_taccl__matrices_are_a_mesh),
        cmocka_unit_test(test_topo_read_taccl__groups_joined_by_links),
        cmocka_unit_test(test_topo_read_taccl__refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

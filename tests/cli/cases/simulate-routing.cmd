moeplan convert -q 2x4:h100 t.yaml
moeplan plan "$SAMPLES/prefill.mpt" t.yaml --tokens-per-rank 64 --steps 2 --strategy eplb-tar --redundant 8 -q -o plan.yaml > /dev/null
for dispatcher in hierarchical hsc deepep-normal; do
    for routing in 0 20000 2000000; do
        moeplan simulate plan.yaml "$SAMPLES/prefill.mpt" t.yaml --dispatcher $dispatcher --routing-ns $routing --interval-groups 0 -q | grep -E "dispatcher|dispatch "
    done
done
moeplan compare "$SAMPLES/prefill.mpt" t.yaml --tokens-per-rank 64 --steps 2 --strategy contiguous,eplb-tar --redundant 8 --split none --dispatcher hsc --routing-ns 20000 --interval-groups 0 -q | grep -E "dispatcher|contig|tar"

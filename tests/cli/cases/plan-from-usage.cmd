moeplan generate -q --experts 16 --top-k 4 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 -o t.mpt > /dev/null
steps="2x2:h100 --tokens-per-rank 128 -q --interval-groups 0"
moeplan plan t.mpt $steps --strategy contiguous -o old.yaml > /dev/null
moeplan plan t.mpt $steps --strategy lpt --move-budget 1GB -o new.yaml
moeplan plan t.mpt $steps --strategy lpt --from old.yaml --move-budget lots -o new.yaml
moeplan plan t.mpt $steps --strategy lpt --from missing.yaml -o new.yaml
moeplan plan t.mpt 4x2:h100 --tokens-per-rank 64 -q --strategy lpt --from old.yaml -o new.yaml
moeplan plan t.mpt $steps --strategy lpt --from old.yaml --slots-per-gpu 5 -o new.yaml
moeplan plan t.mpt 2x2:h100 --tokens-per-rank 128 -q --strategy lpt --from old.yaml --strict -o new.yaml
ls

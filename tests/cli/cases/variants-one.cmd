# Nothing to gain: one variant, which is what moeplan plan makes.
moeplan generate -q --experts 16 --top-k 2 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 --domains 2 --domain-share 0.5 -o a.mpt > /dev/null
options="a.mpt 4:h100 --tokens-per-rank 64 -q --resample --strategy lpt --split 0.5"
moeplan variants $options --variants 1 --domains categories:2 --pool 8 --blocks 10,100 -o lib.yaml
moeplan plan $options -o p.yaml > /dev/null
cmp lib.0.yaml p.yaml && echo K = 1 is the static plan

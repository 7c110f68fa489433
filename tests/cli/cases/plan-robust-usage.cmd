moeplan generate -q --experts 16 --top-k 4 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 -o a.mpt > /dev/null
moeplan generate -q --experts 8 --top-k 4 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 -o b.mpt > /dev/null
steps="4:h100 --tokens-per-rank 128 -q --strategy lpt -o p.yaml"
moeplan plan a.mpt $steps --robust b.mpt; echo $?
moeplan plan a.mpt $steps --robust missing.mpt; echo $?
moeplan plan a.mpt $steps --robust a.mpt,; echo $?
moeplan plan a.mpt $steps --robust a.mpt --weights 1; echo $?
moeplan plan a.mpt $steps --robust a.mpt --weights 1,0; echo $?
moeplan plan a.mpt $steps --robust categories:99; echo $?
moeplan plan a.mpt $steps --robust p.yaml; echo $?
moeplan plan a.mpt $steps --weights 1,2; echo $?
moeplan plan a.mpt $steps --robust a.mpt --strict; echo $?
ls

moeplan generate -q --experts 16 --top-k 2 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 --zipf 1.4 --seed 3 -o a.mpt > /dev/null
moeplan generate -q --experts 16 --top-k 2 --layers 2 --phase prefill --n-requests 60 --tokens-per-request 32 --zipf 1.4 --seed 4 -o b.mpt > /dev/null
options="4:h100 --tokens-per-rank 512 -q --resample --strategy lpt"
moeplan variants a.mpt $options --domains b.mpt --pool 8 --blocks 10,1000 -o lib.yaml
ls
for f in lib.0.yaml lib.1.yaml; do moeplan verify $f a.mpt 4:h100; done
sed -n 1,22p lib.yaml
moeplan variants a.mpt $options --domains b.mpt --pool 8 --blocks 10,1000 --threads 3 -o again.yaml > /dev/null
cmp lib.1.yaml again.1.yaml && sed s/again/lib/ again.yaml | cmp - lib.yaml && echo the same for any number of threads
moeplan variants a.mpt $options --domains b.mpt --pool 8 --blocks 100 --variants 1 --json

printf "0 40000000 10000000 10000000\n10000000 0 40000000 30000000\n10000000 10000000 0 40000000\n40000000 10000001 10000000 0\n" > m.txt
moeplan order m.txt 4:h100 --strategy spread-out,bvn --stages barrier -o plan.yaml | sed "s/ *[0-9.]* ms$//"
moeplan verify plan.yaml
sed -n "/^orders/,/^colocation/p" plan.yaml

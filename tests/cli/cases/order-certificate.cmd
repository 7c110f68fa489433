printf "to0,to1,to2,to3\n9,6000,1000,1000\n1000,0,5000,4000\n2000,1000,0,6000\n5000,1500,3000,0\n" > m.csv
moeplan order m.csv 2x2:h100 --strategy two-level,list --token-bytes 7168 --stages barrier -q -o plan.yaml | tail -1
sed -n "/^  planned/,/^shape/p" plan.yaml
sed -n "/^colocation/,/^checksum/p" plan.yaml
moeplan verify plan.yaml
moeplan verify plan.yaml m.csv 2x2:h100
moeplan verify plan.yaml - 2x2:h100 --json --thorough < m.csv
moeplan inspect plan.yaml

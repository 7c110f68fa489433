printf "0 5000000 1\n6000000 0 2000000\n3 7000000 0\n" > m.txt
moeplan order m.txt 3:h100 --strategy list -q -o plan.yaml > /dev/null
sed "s/1$/2/" m.txt > other.txt
moeplan verify plan.yaml other.txt 3:h100; echo "rc $?"
moeplan verify plan.yaml m.txt 3:a100; echo "rc $?"
forge() { sed "$1" plan.yaml | sed '$d' > forged.yaml; printf 'checksum: "%s"\n' "$(sha256sum < forged.yaml | cut -d " " -f 1)" >> forged.yaml; }
forge "s/    value_ns: .*/    value_ns: 500000/"
moeplan verify forged.yaml m.txt 3:h100; echo "rc $?"
forge "s/    bound_ns: .*/    bound_ns: 1/"
moeplan verify forged.yaml m.txt 3:h100; echo "rc $?"
forge "s/    token_bytes: 0/    token_bytes: 2/"
moeplan verify forged.yaml m.txt 3:h100 | head -1
forge "/^  matrix:/,/token_bytes/d; /^certificates/,/nodes/d"
moeplan verify forged.yaml; echo "rc $?"
moeplan verify forged.yaml m.txt 3:h100; echo "rc $?"
moeplan verify plan.yaml m.txt

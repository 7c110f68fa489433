printf "0 5\n6 0\n" > m.txt
moeplan order m.txt 2:h100 --strategy two-level -o p.yaml | sed "s/ *[0-9.]* ms$//"
ls
moeplan order m.txt 2:h100 --strategy two-level -o -

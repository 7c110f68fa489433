printf "0 5\n6 0\n" > m.txt
moeplan order m.txt 2:h100 --strategy spread-out -o - | head -5
moeplan order m.txt 2:h100 --json -o -

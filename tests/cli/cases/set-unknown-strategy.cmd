printf "0 40000000 10000000\n10000000 0 40000000\n10000000 10000000 0\n" > m.txt
moeplan order m.txt 3:h100 --set nothing.stages=4

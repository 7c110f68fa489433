printf "layer,expert,count\n0,0,5\n0,1,7\n" > counts.csv; moeplan convert counts.csv c.mpt; echo "rc $?"; moeplan inspect counts.csv --phase decode --layer-base 0 --ids logical --experts 2 | head -4

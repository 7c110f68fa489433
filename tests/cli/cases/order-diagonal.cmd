printf "7,0\n0,7\n" > m.csv
moeplan order m.csv 2:h100 --strategy single,bvn --markdown | sed "s/ *[0-9.]* ms/ N/"

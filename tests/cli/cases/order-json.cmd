printf "# tokens\nto0,to1\n0,2000\n1000.0,0\n" > m.csv
moeplan order m.csv 1x2:h100 --strategy spread-out --token-bytes 7168 --json

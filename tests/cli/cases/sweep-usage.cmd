for a in "--redundant 8" "--redundant 0:8:0" "--redundant 8:0" "--redundant 0:x" "--redundant 0,0" "--redundant 0:300:1" "--redundant 1:2:3:4" "--redundant 9999:10000" \
    "--redundant 0:18446744073709551615:9" "--redundant 0,4 --nodes 1,2 --batch 1,2" "--redundant 0:100:1 --nodes 1:100:1" "--redundant 0,1 --json --csv" "--redundant 0,1 --split category:zz"; do
    moeplan sweep $SAMPLES/decode.mpt 2x2:h100 $a
    echo "exit code $?"
done
moeplan sweep $SAMPLES/decode.mpt nvl72 --gpus 2,4
moeplan sweep $SAMPLES/prefill.mpt 2x2:h100 --batch 2,4

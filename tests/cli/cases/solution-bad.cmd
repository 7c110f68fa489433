try() {
    printf "$1" > answer.txt
    moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --tokens-per-rank 64 --steps 1 --dispatcher a2av -q --import-solution answer.txt -o p.yaml
    echo "rc $?"
}
try ""
try "x_0_0_0_0 1\nx_0_1_0_9 1\n"
try "x_0_0_0_0 0.4\n"
try "x_0_0_0_0 2\n"
try "x_0_0_0_0 1\nx_0_0_0_0 1\n"
try "x_0_0_0_0 one\n"
try "Status: Optimal\n"
try "x_0_0_0_0 1\n"
try "s mip 9 9 o 1\nj 100000 1\n"
moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --tokens-per-rank 64 -q --import-solution no-such-file -o p.yaml --dispatcher a2av; echo "rc $?"
moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --tokens-per-rank 64 -q --import-solution answer.txt -o p.yaml; echo "rc $?"
moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --tokens-per-rank 64 -q --export-lp p.lp --strategy lpt -o p.yaml; echo "rc $?"
moeplan plan "$SAMPLES/limoe.mpt" 2:h100 --solver best -o p.yaml; echo "rc $?"
ls

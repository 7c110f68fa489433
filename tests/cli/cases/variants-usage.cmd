moeplan generate -q --experts 16 --top-k 4 --layers 2 --phase prefill --n-requests 20 --tokens-per-request 32 -o a.mpt > /dev/null
moeplan generate -q --experts 8 --top-k 4 --layers 2 --phase prefill --n-requests 20 --tokens-per-request 32 -o b.mpt > /dev/null
try="moeplan variants a.mpt 4:h100 --tokens-per-rank 64 -q --resample --strategy lpt"
$try --pool 4 --blocks 10 --variants 2; echo $?
$try --domains b.mpt; echo $?
$try --domains missing.mpt; echo $?
$try --domains categories:1; echo $?
$try --domains a.mpt --blocks 100,10; echo $?
$try --domains a.mpt --blocks 0; echo $?
$try --domains a.mpt --blocks ten; echo $?
$try --domains a.mpt --blocks 10,; echo $?
$try --domains a.mpt --variants 0; echo $?
$try --domains a.mpt --regret 2; echo $?
$try --domains a.mpt -o -; echo $?
$try --domains b.mpt -o b.mpt; echo $?
$try --domains a.mpt --for sglang; echo $?
moeplan variants a.mpt 4:h100 -q --strategy eplb-online --domains a.mpt; echo $?
$try --domains a.mpt --weights 1; echo $?
$try --domains a.mpt --weights 1,0; echo $?
$try --domains a.mpt --overlap 1.5; echo $?
$try --domains a.mpt --beside eplb-online; echo $?
$try --domains a.mpt --beside nobody; echo $?
ls

moeplan inspect t.npy --map m.npy

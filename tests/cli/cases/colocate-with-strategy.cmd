moeplan compare a.mpt b.mpt 4:h100 --colocate --strategy lpt

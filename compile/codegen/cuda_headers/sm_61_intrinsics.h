// Dot products of int8: TVM's source includes them, and calls none.

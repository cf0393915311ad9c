"""How good results are: pictures and shape against known objects, beside trivial answers."""

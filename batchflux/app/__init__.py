"""One job from start to end: load it, plan it, resume it, run it, publish it. Joins the rooms below; decides little."""

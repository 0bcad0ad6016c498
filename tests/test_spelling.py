from falcon_cli.spelling import did_you_mean


def test_a_near_name_is_offered():
    assert did_you_mean("MT-bnch", ["mt-bench", "gsm8k"]) == " (did you mean mt-bench?)"


def test_nothing_is_offered_for_a_far_name():
    assert did_you_mean("zzz", ["mt-bench", "gsm8k"]) == ""

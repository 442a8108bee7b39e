from deft_llm import exit_codes


def test_every_code_has_one_meaning_and_stands_in_the_table():
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(exit_codes.MEANINGS) == {0, 1, 2, 3, 4, 130, 143}
    assert len(set(exit_codes.MEANINGS.values())) == len(codes)
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code:>5}  {meaning}" in exit_codes.table().splitlines()

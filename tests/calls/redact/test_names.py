"""Names after cues and beside titles, without the sentence around them."""

import pytest

from tests.calls.redact.saying import one, redacted


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("我叫王小明", "我叫<姓名1>"),
        ("我叫王伟想问一下宽带", "我叫<姓名1>想问一下宽带"),
        ("我叫王伟我要投诉", "我叫<姓名1>我要投诉"),
        ("我叫王伟手机停机了", "我叫<姓名1>手机停机了"),
        ("我的名字是欧阳建国，住在这儿", "我的名字是<姓名1>，住在这儿"),
        ("机主是李秀英", "机主是<姓名1>"),
        ("户名叫张桂芳的", "户名叫<姓名1>的"),
        ("登记人姓名:刘洋", "登记人姓名:<姓名1>"),
        ("免贵姓赵", "免贵姓<姓名1>"),
        ("我姓钱", "我姓<姓名1>"),
        ("我姓往，往前走的往", "我姓<姓名1>，往前走的往"),
        ("姓陈，叫陈建华", "姓<姓名1>，叫<姓名1>"),
        ("我姓王叫小明", "我姓<姓名1>叫<姓名2>"),
        ("王先生您好", "<姓名1>先生您好"),
        ("请问是李晓燕女士吗", "请问是<姓名1>女士吗"),
        ("江苏王先生打来的", "江苏<姓名1>先生打来的"),
        ("麻烦转告张师傅", "麻烦转告<姓名1>师傅"),
        ("您是周建国本人吗", "您是<姓名1>本人吗"),
        ("我是客服小刘", "我是客服小<姓名1>"),
        ("弓长张", "<姓名1>"),
        ("我叫往小明", "我叫<姓名1>"),
    ],
)
def test_a_name_after_a_cue_is_found_and_the_rest_stays(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "我叫了个师傅来修",
        "叫你们经理来接电话",
        "我叫他不要来了",
        "这位先生，那位女士，各位先生",
        "你贵姓啊，您贵姓呢",
        "高兴不起来，方便的时候回个电话，周末也行",
        "任何问题都不解决，温州的号，江苏的卡",
        "老百姓的钱不是钱",
        "总经理、项目经理、客户经理都不管",
        "我是上个月办的，我是白天打的",
        "名字写错了，姓名不对",
        "您是单位用户吗，您是本人吗",
        "小区的信号，小时候，小高层",
        "马上给我办，谢谢",
    ],
)
def test_words_that_look_like_names_stay(said: str) -> None:
    assert one(said) == said


def test_the_answer_to_a_question_is_a_name() -> None:
    assert redacted("a:请问您怎么称呼", "c:王小明") == ["请问您怎么称呼", "<姓名1>"]
    assert redacted("a:机主姓名报一下", "c:嗯，就是孙丽华，我爱人") == ["机主姓名报一下", "嗯，就是<姓名1>，我爱人"]
    assert redacted("a:您贵姓", "c:免贵姓林") == ["您贵姓", "免贵姓<姓名1>"]
    assert redacted("a:您贵姓", "c:往小明") == ["您贵姓", "<姓名1>"]
    assert redacted("a:您贵姓", "c:不知道，随便吧") == ["您贵姓", "不知道，随便吧"]


def test_a_name_is_found_again_without_a_cue_and_has_one_token() -> None:
    texts = redacted("c:我叫王小明", "a:好的，王小明是吧，王小明先生您好", "c:王小明这三个字，大小的小，明天的明")
    assert texts == ["我叫<姓名1>", "好的，<姓名1>是吧，<姓名1>先生您好", "<姓名1>这三个字，<姓名2>，<姓名3>"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("my name is John Smith and I want to complain", "my name is <NAME1> and I want to complain"),
        ("my name is john smith and i want to complain", "my name is <NAME1> and i want to complain"),
        ("this is jane miller calling", "this is <NAME1> calling"),
        ("am I speaking with Mr. Brown", "am I speaking with Mr. <NAME1>"),
        ("thanks jennifer you are kind", "thanks <NAME1> you are kind"),
        ("the account is under the name of Priya Kapoor", "the account is under the name of <NAME1>"),
        ("last name is smith, s m i t h", "last name is <NAME1>, <NAME1>"),
    ],
)
def test_english_names_are_found(said: str, expected: str) -> None:
    assert one(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "this is ridiculous, I want to cancel",
        "my name is on the bill",
        "I will pay the bill in may",
        "thank you for calling",
        "the last name on it is wrong",
        "I was speaking with someone yesterday",
        "I'm very upset",
        "hi I need help",
    ],
)
def test_english_words_that_are_no_names_stay(said: str) -> None:
    assert one(said) == said


def test_an_english_name_is_found_again() -> None:
    texts = redacted(
        "a:may I have your name please", "c:sure, it's Daniel Ortega", "a:thank you Daniel", "c:yes ortega"
    )
    assert texts == ["may I have your name please", "sure, it's <NAME1>", "thank you <NAME1>", "yes <NAME1>"]

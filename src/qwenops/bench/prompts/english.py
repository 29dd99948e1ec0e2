"""Sentences of English calls. Names are the usual placeholders, companies are examples, numbers come from `calls`."""

from qwenops.bench.prompts.phrases import Phrases, Scenario

_TASK = (
    "You review calls for the quality team of a contact centre. Below is the transcript of one call, made by speech "
    "recognition; words may be wrong, missing or repeated. Decide what the customer complains about most and answer "
    "with one line of JSON and nothing else, in the form "
    '{"category": "code", "reason": "at most ten words"}.'
)

PHRASES = Phrases(
    language="en",
    instructions=(
        _TASK
        + """
Categories:
A1 Disputed charge: the customer does not accept a fee, an amount on the bill or how it was worked out.
A2 Service without consent: a plan, membership or insurance was activated that nobody asked for.
A3 Late refund: promised money did not arrive in time, or was refused without a reason.
B1 Network or device fault: no connection, no signal, a broken device, a system that does not open.
B2 Home visit: the engineer did not come, came late, did not repair it or was rude.
C1 Delivery: lost, late, wrong address, left somewhere without permission.
C2 Product quality: not as described, damaged, parts missing.
D1 Manner of service: impatient, passes the customer around, hangs up, contradicts earlier statements.
D2 Repeated contact: called more than twice about the same thing without a result.
E1 Account and security: cannot log in, data was leaked, unknown transactions.
F1 Contract and cancellation: hard to cancel, exit fees, terms that were never explained.
Z0 No complaint: a question, praise or a wrong number.
If a call touches several categories, take the one the customer most wants to be solved.

Transcript:
""",
        _TASK
        + """
Categories: A1 disputed charge; A2 no consent; A3 late refund; B1 fault; B2 home visit; C1 delivery; C2 product
quality; D1 manner; D2 repeated contact; E1 account security; F1 cancellation; Z0 no complaint.

Transcript:
""",
        "Name the complaint category of this call in one word:\n",
    ),
    agent="Agent: ",
    customer="Customer: ",
    greetings=(
        "Thank you for calling {company}, you are speaking to agent {agent}, how can I help you today?",
        "Good morning, {company}, customer care, what can I do for you?",
        "Welcome to {company}. May I have your name before we start?",
        "Hello, this is agent {agent} at {company}, how may I help?",
    ),
    scenarios=(
        Scenario(
            opening=(
                "I looked at my bill and there is an extra charge of {amount} dollars for a service I never ordered.",
                "You have been taking {amount} dollars every month since {month} and nobody ever told me about it.",
                "I want to complain about a charge of {month} {day}, it is {amount} dollars and nobody explained it.",
            ),
            exchanges=(
                (
                    "I can see it was activated by a text confirmation on {month} {day}.",
                    "I never answered any text, so please show me that confirmation.",
                ),
                (
                    "The {amount} dollars are for data outside of your plan.",
                    "My plan is unlimited, that is exactly what I was told when I signed up.",
                ),
                (
                    "I can remove the service for you right now.",
                    "That is the least you can do, but I also want the {amount} dollars from the last months back.",
                ),
                (
                    "A refund request takes about {days} working days.",
                    "It took you one second to take the money and now it needs {days} days to come back?",
                ),
                (
                    "You can find the details of the bill in the application.",
                    "I did look, there is one single line and when I open it the page is empty.",
                ),
                (
                    "There is also a {plan} on the account, did you order that one?",
                    "Yes that one is mine, I am talking about the other one, the {amount} dollars.",
                ),
            ),
        ),
        Scenario(
            opening=(
                "The internet goes down every evening at {hour}, it has been {days} days and the children suffer.",
                "Since last week my phone has no signal inside the house, calls break up all the time.",
                "It is down again, the red light keeps blinking, I restarted it {days} times and nothing helped.",
            ),
            exchanges=(
                (
                    "Which colour is the light on the front of the box?",
                    "It is red and it blinks, and the green one next to it is off.",
                ),
                (
                    "Please unplug it, wait {days} minutes and plug it in again.",
                    "I did that already, your colleague told me the same thing and it made no difference.",
                ),
                (
                    "The system says there is maintenance in your area.",
                    "Then you should tell people before, nobody in the whole building knew about it.",
                ),
                (
                    "I will book an engineer, he will call you tomorrow before {hour}.",
                    "That is what they said last time, I took half a day off and waited until {hour} and nobody came.",
                ),
                (
                    "Do you remember when the device was installed?",
                    "In {month}, two years ago, it is the model that you sent me for free.",
                ),
                (
                    "What does the speed test show?",
                    "I pay for {amount} megabits and I get {days}, that is not even close.",
                ),
            ),
        ),
        Scenario(
            opening=(
                "My order {order} says it was delivered, but I have not received anything at all.",
                "I bought a {product} that should be here within {days} days, and the tracking does not move.",
                "The driver did not even ring, he left it at some shop and the shop says they never had it.",
            ),
            exchanges=(
                ("Could you give me the order number, please?", "It is {order}, and the name on it is {name}."),
                (
                    "It was signed for on the {day}th at {hour} in the afternoon.",
                    "I was at work at that time and nobody was home, so who signed for it?",
                ),
                ("Is {phone} the number we should have called?", "Yes that is my number, and nobody called it."),
                (
                    "Let me check with the delivery station.",
                    "I called the station {days} times already and nobody ever picks up.",
                ),
                (
                    "If it is lost we can send a new one or refund you.",
                    "I do not want another one, just give me the {amount} dollars back.",
                ),
                (
                    "Was the item damaged when it arrived?",
                    "The box looked fine, but the {product} has a long scratch and one part is missing.",
                ),
            ),
        ),
        Scenario(
            opening=(
                "There is a payment of {amount} dollars on my card that I did not make, please do something quickly.",
                "I cannot log in any more, it keeps saying wrong password and I never changed it.",
                "Somebody called me today who knew my name and my order, did you lose my data?",
            ),
            exchanges=(
                (
                    "To check who you are, please read me the end of the card number.",
                    "The card is {card}, the last four digits are at the end there.",
                ),
                (
                    "The payment was made on {month} {day} at about {hour}.",
                    "I was asleep at that time and the phone was right next to me.",
                ),
                (
                    "I will block the card for the moment.",
                    "And what about my mortgage, it is due on the {day}th and it comes from that card.",
                ),
                (
                    "You would have to visit a branch with your papers.",
                    "I am travelling, I cannot come back for that, can you not do it on the phone?",
                ),
                (
                    "Did you open any unknown links recently?",
                    "No, I never touch those things, the only messages I got came from you.",
                ),
                (
                    "The code will be sent to your mail address.",
                    "It is {mail}, and I refreshed it many times, there is nothing.",
                ),
            ),
        ),
        Scenario(
            opening=(
                "I want to cancel, there is no button for it anywhere and I called {days} times and nobody does it.",
                "Nobody told me about a minimum term, and now you say I have to pay {amount} dollars to get out.",
                "I cancelled in {month} and you still took money this month, is it cancelled or not?",
            ),
            exchanges=(
                (
                    "Your contract runs until {month} next year.",
                    "Which contract, I never signed anything, please send it to me.",
                ),
                (
                    "There is an exit fee of {amount} dollars.",
                    "You did not deliver what you promised, so why should I pay a fee?",
                ),
                (
                    "I could offer you a better {plan}.",
                    "I do not want another plan, I want to cancel, please just do it.",
                ),
                (
                    "For a cancellation you have to come to the shop.",
                    "To start it one phone call was enough, and now I have to drive to a shop?",
                ),
                (
                    "The cancellation is still being reviewed.",
                    "It has been reviewed for {days} days, how long can that take?",
                ),
                (
                    "I will open an urgent ticket for you.",
                    "There is a ticket already, {order}, please look what happened to it.",
                ),
            ),
        ),
    ),
    exchanges=(
        ("One moment please, let me look that up.", "Fine, but please be quick, I was on hold for ages."),
        ("Thank you for waiting.", "So what did you find out?"),
        ("May I have your full name?", "It is {name}."),
        ("The number I have here is {phone}, is that right?", "Yes, that is correct."),
        ("I am very sorry for the trouble.", "Please stop apologising, I need somebody to solve this."),
        (
            "Did you contact us about this before?",
            "Yes, this is call number {days}, and every time I have to start from the beginning.",
        ),
        (
            "Let me make a note of that.",
            "Please write it down properly, the last person did not write anything.",
        ),
        ("I understand how you feel.", "Everybody says that, and then nothing happens."),
        (
            "Shall I put you through to a specialist?",
            "Not again, I was passed on {days} times already, please solve it here.",
        ),
        ("Is there another number we can reach you on?", "You can try {phone}, that is my family."),
        (
            "You will have an answer by {month} {day}.",
            "Will that be a call or a message? I would rather have a call.",
        ),
        (
            "Sorry, the line is bad, could you say that again?",
            "I said I want a clear date, on which day will this be fixed?",
        ),
        (
            "I see that the ticket was passed to the back office.",
            "And who is that, is there one person I can talk to?",
        ),
        (
            "Our rules say {days} working days.",
            "Those are your rules, and who pays for what I have lost?",
        ),
        (
            "Is there anything you would like to add?",
            "Yes, agent {agent} was really rude and hung up while I was speaking.",
        ),
        (
            "Just to confirm, you would like a refund, is that right?",
            "Yes, a refund and something in writing, please send it to {mail}.",
        ),
    ),
    closings=(
        (
            "It is all in the system, please keep your phone with you.",
            "All right, but if nobody calls me I will file a complaint.",
        ),
        ("Thank you for the call, please rate it afterwards.", "I will rate it when it is solved."),
        ("We will take care of it, have a good day.", "Fine, goodbye."),
        ("If there is nothing else I will end the call here.", "Okay, but please hurry up."),
    ),
    fillers=("uh", "um", "you know", "like", "I mean", "well", "so", "actually", "right", "okay"),
    misheard={
        "there": ("their",),
        "their": ("there",),
        "to": ("too", "two"),
        "your": ("you're",),
        "you": ("ya",),
        "bill": ("build",),
        "charge": ("charged",),
        "week": ("weak",),
        "right": ("write",),
        "for": ("four",),
        "know": ("no",),
        "here": ("hear",),
        "by": ("buy",),
        "plan": ("plane",),
        "order": ("older",),
        "signed": ("sign",),
        "would": ("wood",),
        "fee": ("free",),
        "refund": ("re fund",),
        "then": ("than",),
        "wait": ("weight",),
        "not": ("knot",),
        "is": ("its",),
        "and": ("an",),
    },
    punctuation=",.?!",
    joint=" ",
    slots={
        "company": (
            "Example Mobile",
            "Example Broadband",
            "Example Store",
            "Example Bank",
            "Example Insurance",
            "Example Parcels",
        ),
        "name": ("John Doe", "Jane Doe", "Joe Bloggs", "Jane Roe", "Richard Roe", "Mary Major", "Max Mustermann"),
        "month": (
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ),
        "plan": ("family plan", "video membership", "call alert", "data booster", "care package", "weekend option"),
        "product": (
            "air purifier",
            "desk lamp",
            "wireless headset",
            "kettle",
            "suitcase",
            "smart watch",
            "robot",
        ),
    },
)

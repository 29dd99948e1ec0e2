"""Teaching a model classes: LoRA on its layers, a head of label rows, on a machine without a GPU or with one.

    options      what can be chosen
    training     train(): from options and data to an adapter folder; calls all the rest in order
    body         the frozen model, computed layer by layer          qlora      its matrices in four bits
    lora         what is trained, through peft                      losses     what is minimised
    precision    bf16 or f32, by measuring                          memory     how to fit into it
    activations  what frozen lower layers gave, on disk             states     the calls' states, from there or anew
    probe        the first answer: a linear model on frozen states  estimate   how long it will take
    loop         steps and epochs                                   scoring    logits of many calls, macro-F1
    checkpoint   all that a run needs to go on exactly              adapter    the result, checked after it is saved
    world        one process, or several under torchrun             schedule   the learning rate

Chance is a hash of the seed and of the place in the run, so nothing of it has to be saved. On one machine a run that
was killed and taken up again ends with the same bits as one that was not.
"""

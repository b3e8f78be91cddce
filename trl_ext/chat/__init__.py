"""Chat with a trained model and with its base model.

Files: ``conversation`` keeps the messages and turns them into token ids, ``answer`` generates and streams an answer,
``side`` is one model with its conversation, ``screen`` shows answers, ``session`` reads questions, ``echo`` hides what is typed
while models are loaded.
"""

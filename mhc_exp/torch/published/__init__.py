"""Models published with connections of their own (DeepSeek-V4, GLM-5 Next, HY-V4, Qwen4-Exp in transformers), as they
are: which modules are connections (modules.py), the model opened and run (model.py), its connections' weights alone,
read without the model (tensors.py).
"""

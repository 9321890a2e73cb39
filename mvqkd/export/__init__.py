"""Students as ONNX files that sherpa-onnx runs unmodified, and model folders to share.

`write_graph` writes a file, `verify_file` compares it with what its recognizer takes,
`OnnxTransducer` and `OnnxCTC` decode with the files through onnxruntime. Needs the extra `onnx`.
"""

"""TensorFlow Serving's messages, as far as a server of models meets them.

Rules of the room: names, numbers and types as they are in the ``.proto`` files of TensorFlow Serving's API
2.21; ``tests/unit/protocols/test_tfs_messages.py`` compares every field with the real ones. Left out:
``SessionRunLog``'s fields, which bring TensorFlow's run options; bytes in them are kept, and not read.
Services have the methods that are answered here.
"""

from __future__ import annotations

from modelserver.protocols import tf_messages  # noqa: F401 - which these messages are made of
from modelserver.protocols.protobuf import define, message_class

_POLICY = "FileSystemStoragePathSourceConfig.ServableVersionPolicy"

_serving = define(
    "tensorflow.serving",
    {
        "ModelSpec": {
            "name": (1, "string"),
            "version_choice": {"version": (2, "google.protobuf.Int64Value"), "version_label": (4, "string")},
            "signature_name": (3, "string"),
        },
        "StatusProto": {"error_code": (1, "tensorflow.error.Code"), "error_message": (2, "string")},
        # Predict
        "PredictRequest": {
            "model_spec": (1, "ModelSpec"),
            "inputs": (2, "map<string, TensorProto>"),
            "output_filter": (3, "repeated string"),
            "predict_streamed_options": (5, "PredictStreamedOptions"),
            "client_id": (6, "optional bytes"),
            "request_options": (7, "optional RequestOptions"),
        },
        "PredictRequest.RequestOptions": {
            "client_id": (1, "optional bytes"),
            "deterministic_mode": (2, "optional DeterministicMode"),
            "return_additional_arrays_from_prefill": (3, "optional bool"),
            "return_stoptokens": (4, "repeated int64"),
            "max_cache_length": (6, "optional int64"),
            "return_all_stoptokens": (9, "optional bool"),
            "handshake": (13, "optional Handshake"),
        },
        "PredictRequest.RequestOptions.Handshake": {"estimated_payload_bytes": (1, "int64")},
        "PredictStreamedOptions": {
            "request_state": (1, "RequestState"),
            "split_dimensions": (2, "map<string, int32>"),
            "return_single_response": (3, "bool"),
        },
        "PredictResponse": {"outputs": (1, "map<string, TensorProto>"), "model_spec": (2, "ModelSpec")},
        # Classify, Regress, MultiInference
        "Input": {
            "kind": {
                "example_list": (1, "ExampleList"),
                "example_list_with_context": (2, "ExampleListWithContext"),
            }
        },
        "ExampleList": {"examples": (1, "repeated tensorflow.Example")},
        "ExampleListWithContext": {
            "examples": (1, "repeated tensorflow.Example"),
            "context": (2, "tensorflow.Example"),
        },
        "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
        "ClassificationResponse": {"result": (1, "ClassificationResult"), "model_spec": (2, "ModelSpec")},
        "ClassificationResult": {"classifications": (1, "repeated Classifications")},
        "Classifications": {"classes": (1, "repeated Class")},
        "Class": {"label": (1, "string"), "score": (2, "float")},
        "RegressionRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
        "RegressionResponse": {"result": (1, "RegressionResult"), "model_spec": (2, "ModelSpec")},
        "RegressionResult": {"regressions": (1, "repeated Regression")},
        "Regression": {"value": (1, "float")},
        "InferenceTask": {"model_spec": (1, "ModelSpec"), "method_name": (2, "string")},
        "InferenceResult": {
            "model_spec": (1, "ModelSpec"),
            "result": {
                "classification_result": (2, "ClassificationResult"),
                "regression_result": (3, "RegressionResult"),
            },
        },
        "MultiInferenceRequest": {"tasks": (1, "repeated InferenceTask"), "input": (2, "Input")},
        "MultiInferenceResponse": {"results": (1, "repeated InferenceResult")},
        # GetModelMetadata, GetModelStatus
        "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "repeated string")},
        "GetModelMetadataResponse": {
            "model_spec": (1, "ModelSpec"),
            "metadata": (2, "map<string, google.protobuf.Any>"),
        },
        "SignatureDefMap": {"signature_def": (1, "map<string, tensorflow.SignatureDef>")},
        "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
        "GetModelStatusResponse": {"model_version_status": (1, "repeated ModelVersionStatus")},
        "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "State"), "status": (3, "StatusProto")},
        # Configuration, and HandleReloadConfigRequest
        "ModelServerConfig": {
            "config": {
                "model_config_list": (1, "ModelConfigList"),
                "custom_model_config": (2, "google.protobuf.Any"),
            }
        },
        "ModelConfigList": {"config": (1, "repeated ModelConfig")},
        "ModelConfig": {
            "name": (1, "string"),
            "base_path": (2, "string"),
            "model_type": (3, "ModelType"),
            "model_platform": (4, "string"),
            "logging_config": (6, "LoggingConfig"),
            "model_version_policy": (7, _POLICY),
            "version_labels": (8, "map<string, int64>"),
        },
        _POLICY: {
            "policy_choice": {"latest": (100, "Latest"), "all": (101, "All"), "specific": (102, "Specific")}
        },
        f"{_POLICY}.Latest": {"num_versions": (1, "uint32")},
        f"{_POLICY}.All": {},
        f"{_POLICY}.Specific": {"versions": (1, "repeated int64")},
        "LoggingConfig": {
            "log_collector_config": (1, "LogCollectorConfig"),
            "sampling_config": (2, "SamplingConfig"),
            "custom_logging_config": (3, "google.protobuf.Any"),
        },
        "LogCollectorConfig": {"type": (1, "string"), "filename_prefix": (2, "string")},
        "SamplingConfig": {
            "sampling_rate": (1, "double"),
            "attributes": (2, "int32"),
            "per_task_sampling_configs": (3, "repeated PerTaskSamplingConfig"),
        },
        "PerTaskSamplingConfig": {
            "dc": (1, "string"),
            "task_index": (2, "optional int32"),
            "sampling_rate": (3, "double"),
        },
        "ReloadConfigRequest": {"config": (1, "ModelServerConfig"), "metric_names": (2, "repeated string")},
        "ReloadConfigResponse": {"status": (1, "StatusProto"), "metric": (2, "repeated Metric")},
        "Metric": {"name": (1, "string"), "value_increase": {"int64_value_increase": (2, "int64")}},
        # --batching_parameters_file and --monitoring_config_file: the client has no descriptors of these.
        "BatchingParameters": {
            "max_batch_size": (1, "google.protobuf.Int64Value"),
            "batch_timeout_micros": (2, "google.protobuf.Int64Value"),
            "max_enqueued_batches": (3, "google.protobuf.Int64Value"),
            "num_batch_threads": (4, "google.protobuf.Int64Value"),
            "thread_pool_name": (5, "google.protobuf.StringValue"),
            "allowed_batch_sizes": (6, "repeated int64"),
            "pad_variable_length_inputs": (7, "bool"),
            # Read as text, where names count; their numbers are not known to be TensorFlow Serving's.
            "enable_large_batch_splitting": (8, "google.protobuf.BoolValue"),
            "max_execution_batch_size": (9, "google.protobuf.Int64Value"),
        },
        "ModelWarmupOptions": {
            "num_request_iterations": (1, "google.protobuf.Int32Value"),
            "num_model_warmup_threads": (2, "google.protobuf.Int32Value"),
            "model_name": (3, "string"),
            "model_version": (4, "int64"),
        },
        "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
        "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
        # Warm-up records
        "PredictionLog": {
            "log_metadata": (1, "LogMetadata"),
            "log_type": {
                "classify_log": (2, "ClassifyLog"),
                "regress_log": (3, "RegressLog"),
                "multi_inference_log": (4, "MultiInferenceLog"),
                "session_run_log": (5, "SessionRunLog"),
                "predict_log": (6, "PredictLog"),
                "predict_streamed_log": (7, "PredictStreamedLog"),
            },
        },
        "LogMetadata": {
            "model_spec": (1, "ModelSpec"),
            "sampling_config": (2, "SamplingConfig"),
            "saved_model_tags": (3, "repeated string"),
            "timestamp_secs": (4, "int64"),
            "dc": (5, "string"),
            "request_origin": (6, "string"),
            "request_criticality": (7, "string"),
            "safe_aggregation_privacy_key": (8, "int64"),
        },
        "ClassifyLog": {"request": (1, "ClassificationRequest"), "response": (2, "ClassificationResponse")},
        "RegressLog": {"request": (1, "RegressionRequest"), "response": (2, "RegressionResponse")},
        "MultiInferenceLog": {
            "request": (1, "MultiInferenceRequest"),
            "response": (2, "MultiInferenceResponse"),
        },
        "PredictLog": {"request": (1, "PredictRequest"), "response": (2, "PredictResponse")},
        "PredictStreamedLog": {
            "request": (1, "repeated PredictRequest"),
            "response": (2, "repeated PredictResponse"),
        },
        "SessionRunLog": {},
    },
    {
        "ModelType": {"MODEL_TYPE_UNSPECIFIED": 0, "TENSORFLOW": 1, "OTHER": 2},
        "ModelVersionStatus.State": {
            "UNKNOWN": 0,
            "START": 10,
            "LOADING": 20,
            "AVAILABLE": 30,
            "UNLOADING": 40,
            "END": 50,
        },
        "PredictStreamedOptions.RequestState": {"NONE": 0, "SPLIT": 1, "END_SPLIT": 2, "CANCEL": 3},
        "PredictRequest.RequestOptions.DeterministicMode": {
            "DETERMINISTIC_MODE_UNSPECIFIED": 0,
            "FIXED_DECODER_SLOT": 1,
        },
    },
    {
        "PredictionService": {
            "Predict": ("PredictRequest", "PredictResponse"),
            "Classify": ("ClassificationRequest", "ClassificationResponse"),
            "Regress": ("RegressionRequest", "RegressionResponse"),
            "MultiInference": ("MultiInferenceRequest", "MultiInferenceResponse"),
            "GetModelMetadata": ("GetModelMetadataRequest", "GetModelMetadataResponse"),
        },
        "ModelService": {
            "GetModelStatus": ("GetModelStatusRequest", "GetModelStatusResponse"),
            "HandleReloadConfigRequest": ("ReloadConfigRequest", "ReloadConfigResponse"),
        },
    },
)

AnyMessage = message_class("google.protobuf.Any")


ModelSpec = _serving["ModelSpec"]
StatusProto = _serving["StatusProto"]
PredictRequest = _serving["PredictRequest"]
PredictResponse = _serving["PredictResponse"]
Input = _serving["Input"]
ExampleList = _serving["ExampleList"]
ExampleListWithContext = _serving["ExampleListWithContext"]
ClassificationRequest = _serving["ClassificationRequest"]
ClassificationResponse = _serving["ClassificationResponse"]
ClassificationResult = _serving["ClassificationResult"]
RegressionRequest = _serving["RegressionRequest"]
RegressionResponse = _serving["RegressionResponse"]
RegressionResult = _serving["RegressionResult"]
InferenceTask = _serving["InferenceTask"]
MultiInferenceRequest = _serving["MultiInferenceRequest"]
MultiInferenceResponse = _serving["MultiInferenceResponse"]
GetModelMetadataRequest = _serving["GetModelMetadataRequest"]
GetModelMetadataResponse = _serving["GetModelMetadataResponse"]
SignatureDefMap = _serving["SignatureDefMap"]
GetModelStatusRequest = _serving["GetModelStatusRequest"]
GetModelStatusResponse = _serving["GetModelStatusResponse"]
ReloadConfigRequest = _serving["ReloadConfigRequest"]
ReloadConfigResponse = _serving["ReloadConfigResponse"]
ModelServerConfig = _serving["ModelServerConfig"]
ModelConfigList = _serving["ModelConfigList"]
ModelConfig = _serving["ModelConfig"]
ServableVersionPolicy = _serving[_POLICY]
BatchingParameters = _serving["BatchingParameters"]
ModelWarmupOptions = _serving["ModelWarmupOptions"]
MonitoringConfig = _serving["MonitoringConfig"]
PrometheusConfig = _serving["PrometheusConfig"]
PredictionLog = _serving["PredictionLog"]
PredictLog = _serving["PredictLog"]
ClassifyLog = _serving["ClassifyLog"]
RegressLog = _serving["RegressLog"]
MultiInferenceLog = _serving["MultiInferenceLog"]

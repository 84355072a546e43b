// The stand-in for libcublas: products of matrices, with the checks of sizes and types that the real one makes. See standin.hpp.
#include "numbers.hpp"
#include "standin.hpp"
#include <algorithm>
#include <cublas_v2.h>

#define API extern "C" __attribute__((visibility("default"))) cublasStatus_t CUBLASWINAPI

namespace {

struct Handle {
    bool alive = true;
};

Handle* handle_of(cublasHandle_t handle)
{
    auto* found = reinterpret_cast<Handle*>(handle);
    if (found == nullptr || !found->alive) standin::die("cuBLAS was given a handle that is none, or no longer");
    return found;
}

size_t width(cudaDataType type)
{
    switch (type) {
    case CUDA_R_32F: return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    default: return 0;
    }
}

float get(const void* from, size_t i, cudaDataType type)
{
    if (type == CUDA_R_32F) return static_cast<const float*>(from)[i];
    return type == CUDA_R_16F ? float(static_cast<const f16*>(from)[i]) : float(static_cast<const bf16*>(from)[i]);
}

void set(void* to, size_t i, cudaDataType type, float x)
{
    if (type == CUDA_R_32F) static_cast<float*>(to)[i] = x;
    else if (type == CUDA_R_16F) static_cast<f16*>(to)[i] = f16(x);
    else static_cast<bf16*>(to)[i] = bf16(x);
}

// A matrix with columns first, as it is stored.
struct Matrix {
    const void* start;
    cudaDataType type;
    bool transposed;
    // Of what is multiplied, after transposition.
    size_t rows, columns, stride;

    // Elements from the first to the last.
    size_t span() const
    {
        const size_t stored_rows = transposed ? columns : rows, stored_columns = transposed ? rows : columns;
        return stored_rows == 0 || stored_columns == 0 ? 0 : (stored_columns - 1) * stride + stored_rows;
    }
    float at(size_t row, size_t column) const { return get(start, transposed ? row * stride + column : column * stride + row, type); }
};

// c = alpha a b + beta c, summed in f32. With beta 0 nothing of c is read.
void multiply(const Matrix& a, const Matrix& b, void* c, cudaDataType type, size_t c_stride, float alpha, float beta)
{
    const size_t m = a.rows, n = b.columns, inner = a.columns;
    std::vector<float> left(m * inner), sums(m);
    for (size_t k = 0; k < inner; ++k) {
        for (size_t i = 0; i < m; ++i) left[k * m + i] = a.at(i, k);
    }
    for (size_t j = 0; j < n; ++j) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (size_t k = 0; k < inner; ++k) {
            const float factor = b.at(k, j);
            const float* column = &left[k * m];
            for (size_t i = 0; i < m; ++i) sums[i] += column[i] * factor;
        }
        for (size_t i = 0; i < m; ++i) {
            const size_t at = j * c_stride + i;
            set(c, at, type, alpha * sums[i] + (beta == 0.0f ? 0.0f : beta * get(c, at, type)));
        }
    }
}

} // namespace

API cublasCreate_v2(cublasHandle_t* handle)
{
    *handle = reinterpret_cast<cublasHandle_t>(new Handle);
    return CUBLAS_STATUS_SUCCESS;
}

API cublasDestroy_v2(cublasHandle_t handle)
{
    handle_of(handle)->alive = false;
    return CUBLAS_STATUS_SUCCESS;
}

API cublasSetStream_v2(cublasHandle_t handle, cudaStream_t)
{
    handle_of(handle);
    return CUBLAS_STATUS_SUCCESS;
}

API cublasGetVersion_v2(cublasHandle_t handle, int* version)
{
    handle_of(handle);
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

API cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, const void* alpha, const void* a,
                               cudaDataType a_type, int lda, long long a_step, const void* b, cudaDataType b_type, int ldb, long long b_step, const void* beta,
                               void* c, cudaDataType c_type, int ldc, long long c_step, int count, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    handle_of(handle);
    const bool transposed_a = of_a != CUBLAS_OP_N, transposed_b = of_b != CUBLAS_OP_N;
    for (const cublasOperation_t operation : {of_a, of_b}) {
        if (operation != CUBLAS_OP_N && operation != CUBLAS_OP_T && operation != CUBLAS_OP_C) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (m < 0 || n < 0 || k < 0 || count < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (lda < std::max(1, transposed_a ? k : m) || ldb < std::max(1, transposed_b ? n : k) || ldc < std::max(1, m)) return CUBLAS_STATUS_INVALID_VALUE;
    if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    // Rounding factors of f32 is allowed by the faster ones, not asked for.
    const bool summed_in_f32 = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32 || compute == CUBLAS_COMPUTE_32F_FAST_16BF;
    if (!summed_in_f32) standin::die("cuBLAS: computing in other types than f32 is not implemented");
    // Of the combinations of types in cuBLAS's table for sums in f32.
    if (width(a_type) == 0 || a_type != b_type || !(c_type == a_type || c_type == CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (m == 0 || n == 0 || count == 0) return CUBLAS_STATUS_SUCCESS;
    const float by = *static_cast<const float*>(alpha), before = *static_cast<const float*>(beta);
    const auto size = [](int x) { return static_cast<size_t>(x); };
    for (int i = 0; i < count; ++i) {
        const auto step = [i](const void* start, long long by_one, cudaDataType type) {
            return static_cast<const unsigned char*>(start) + i * by_one * static_cast<long long>(width(type));
        };
        const Matrix left{step(a, a_step, a_type), a_type, transposed_a, size(m), size(k), size(lda)};
        const Matrix right{step(b, b_step, b_type), b_type, transposed_b, size(k), size(n), size(ldb)};
        const Matrix out{step(c, c_step, c_type), c_type, false, size(m), size(n), size(ldc)};
        for (const auto& [matrix, name] : {std::pair{&left, "A"}, std::pair{&right, "B"}, std::pair{&out, "C"}}) {
            standin::expect_memory(matrix->start, matrix->span() * width(matrix->type), std::string("cuBLAS, matrix ") + name);
        }
        standin::submit("a product by cuBLAS", [=] { multiply(left, right, const_cast<void*>(out.start), c_type, size(ldc), by, before); });
    }
    return CUBLAS_STATUS_SUCCESS;
}

API cublasGemmEx(cublasHandle_t handle, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, const void* alpha, const void* a,
                 cudaDataType a_type, int lda, const void* b, cudaDataType b_type, int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                 cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    // Our own products come here, candle's to the one above.
    if (a_type == CUDA_R_32F && algorithm == CUBLAS_GEMM_DEFAULT_TENSOR_OP) standin::die("cuBLAS may round the factors of this product of f32 to f16");
    return cublasGemmStridedBatchedEx(handle, of_a, of_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute, algorithm);
}

// The stand-in for libcurand: generators that are made and seeded. Nothing of ours has numbers drawn by it: masks are drawn by our own kernel.
#include <curand.h>

#define API extern "C" __attribute__((visibility("default"))) curandStatus_t CURANDAPI

API curandCreateGenerator(curandGenerator_t* generator, curandRngType_t)
{
    *generator = reinterpret_cast<curandGenerator_t>(new char);
    return CURAND_STATUS_SUCCESS;
}

API curandDestroyGenerator(curandGenerator_t generator)
{
    delete reinterpret_cast<char*>(generator);
    return CURAND_STATUS_SUCCESS;
}

API curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long) { return CURAND_STATUS_SUCCESS; }

API curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }

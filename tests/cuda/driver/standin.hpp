// What the parts of the stand-ins for NVIDIA's libraries share. They run a program that was built for CUDA on the processor: the driver's memory is
// the host's between inaccessible pages, kernels of ours run through the emulator, candle's by plain functions. What they cannot do ends the program
// with its name. Nothing of what they show says anything of speed.
#pragma once
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace standin {

// ---- of the driver, which the other libraries use too

// Ends the program with a message.
[[noreturn]] __attribute__((visibility("default"))) void die(const std::string& message);

// Ends the program unless these bytes belong to one allocation that lives. Nothing is always there.
__attribute__((visibility("default"))) void expect_memory(const void* start, size_t bytes, const std::string& what);

// Does a stream's work: at once, or where FTREPL_EMULATE_LATE is set not before something waits for it, as a device may.
__attribute__((visibility("default"))) void submit(const std::string& what, std::function<void()> work);

// ---- kernels

struct Launch {
    unsigned grid[3], block[3], shared;
};

struct Kernel {
    std::function<void(const Launch&, void**)> run;
    // Of the parameters, in bytes.
    std::vector<size_t> sizes;
};

// The kernels of a file by their names. Those of ours are apart, as they are when they are loaded: some names are candle's as well.
std::map<std::string, std::map<std::string, Kernel>>& kernels();

// Calls with the parameters that were given as addresses.
template <class... P, class F, size_t... I> void call(F&& function, void** parameters, std::index_sequence<I...>)
{
    function(*static_cast<std::remove_const_t<P>*>(parameters[I])...);
}
template <class... P, class F> void call(F&& function, void** parameters) { call<P...>(function, parameters, std::index_sequence_for<P...>()); }

// A plain function as a kernel: it does what all threads do together. Where it takes a Launch it is told how many they are.
template <class... P> Kernel plain(void (*function)(P...))
{
    return Kernel{[function](const Launch&, void** parameters) { call<P...>(function, parameters); }, {sizeof(P)...}};
}
template <class... P> Kernel plain(void (*function)(const Launch&, P...))
{
    return Kernel{[function](const Launch& launch, void** parameters) { call<P...>([&](P... given) { function(launch, given...); }, parameters); },
                  {sizeof(P)...}};
}

} // namespace standin
